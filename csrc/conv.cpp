// Masked convolution. On the CPU kept channels are gathered where that pays, ATen does the
// arithmetic on what is left, and one pass applies the mask and reduces its gradient. On a GPU
// finding the kept channels would wait for the device, so the masks are fused into the weight
// and into that pass; masked_conv_norm_act takes lists of channels instead.
#include "convolve.h"
#include "cost.h"
#include "gather.h"

namespace pass_transfer {

namespace {

enum class Gradient { Exact, Kept, Margin };

Gradient gradient_of(c10::string_view name) {
  if (name == "exact") return Gradient::Exact;
  if (name == "kept") return Gradient::Kept;
  TORCH_CHECK_VALUE(name == "margin", "gradient is '", name, "'; choose exact, kept or margin");
  return Gradient::Margin;
}

// A binary mask's kept channels, (kept,) int64; undefined on a GPU.
Tensor kept_of(const Tensor& mask, const char* name) {
  if (!mask.is_cpu()) return Tensor();
  TORCH_CHECK_VALUE(mask.eq(0).logical_or(mask.eq(1)).all().item<bool>(), name,
                    " holds other values than 0 and 1");
  return mask.nonzero().flatten();
}

// A mask over input channels as a factor on the weight (O, C / groups, kh, kw).
Tensor on_weight(const Tensor& mask, const Tensor& weight, int64_t groups) {
  const int64_t out = weight.size(0), in = weight.size(1);
  return mask.to(weight.scalar_type())
      .view({groups, 1, in})
      .expand({groups, out / groups, in})
      .reshape({out, in, 1, 1});
}

// What both directions are given.
struct MaskedConv {
  Tensor x, weight;
  OptionalTensor in_mask, out_mask, support, in_margin, out_margin;
  Window window;
  Gradient gradient;

  explicit MaskedConv(const Arguments& given)
      : x(given.tensor("x")),
        weight(given.tensor("weight")),
        in_mask(given.optional("in_mask")),
        out_mask(given.optional("out_mask")),
        support(given.optional("support")),
        in_margin(given.optional("in_margin")),
        out_margin(given.optional("out_margin")),
        window(given, given.integer("groups")),
        gradient(gradient_of(given.word("gradient"))) {}

  // Refuses what does not fit; then x is dense.
  void check() {
    check_pair(x, weight);
    const int64_t ins = x.size(1), outs = weight.size(0);
    TORCH_CHECK_VALUE(
        window.groups >= 1 && ins == weight.size(1) * window.groups && outs % window.groups == 0,
        "x has ", ins, " channels, weight ", weight.sizes(), ", groups is ", window.groups,
        "; they do not fit");
    check_window(x, weight, window);
    if (in_mask) check_vector(*in_mask, x, ins, "in_mask");
    if (out_mask) check_vector(*out_mask, x, outs, "out_mask");
    if (support) check_vector(*support, x, outs, "support");
    if (in_margin) check_vector(*in_margin, x, ins, "in_margin");
    if (out_margin) check_vector(*out_margin, x, outs, "out_margin");
    x = dense(x);
  }

  int64_t area() const { return weight.size(2) * weight.size(3); }
};

void check_bias(const Tensor& bias, const Tensor& x, const Tensor& weight) {
  TORCH_CHECK_VALUE(bias.dim() == 1 && bias.size(0) == weight.size(0), "bias has shape ",
                    bias.sizes(), "; it must be (", weight.size(0), ",)");
  TORCH_CHECK_TYPE(bias.scalar_type() == x.scalar_type(), "bias is ", bias.scalar_type(), ", x ",
                   x.scalar_type());
}

bool some_of(const Tensor& index, int64_t channels, int64_t groups) {
  return index.defined() && groups == 1 && index.numel() > 0 && index.numel() < channels;
}

// conv(in_mask * x, weight) + bias, for a part of the weight's outputs.
Tensor masked_input(const MaskedConv& c, const Tensor& weight, const OptionalTensor& bias) {
  const Tensor& x = c.x;
  const Window& w = c.window;
  const Tensor kept = c.in_mask ? kept_of(*c.in_mask, "in_mask") : Tensor();
  if (!c.in_mask || (kept.defined() && kept.numel() == x.size(1)))
    return convolve(x, weight, bias, w);
  if (some_of(kept, x.size(1), w.groups) &&
      compaction_pays(x.size(1), kept.numel(), weight.size(0), c.area(), w.stride[0] * w.stride[1]))
    return convolve(gather(x, kept), weight.index_select(1, kept), bias, w)
        .contiguous(format_of(layout_of(x)));  // of one channel it may be the other
  return convolve(x, weight * on_weight(*c.in_mask, weight, w.groups), bias, w);
}

// Channels whose mask element gets its gradient, as a binary mask; nothing: all of them.
OptionalTensor learning_of(Gradient mode, const OptionalTensor& mask,
                           const OptionalTensor& margin) {
  if (!mask || mode == Gradient::Exact) return std::nullopt;
  if (mode == Gradient::Kept || !margin) return mask;
  return at::maximum(*mask, margin->to(mask->scalar_type()));
}

// y, and what the backward pass needs of it:
// the outputs before out_mask (nothing where y itself serves).
Results masked_conv2d(const Arguments& given) {
  MaskedConv c(given);
  const OptionalTensor bias = given.optional("bias");
  c.check();
  if (bias) check_bias(*bias, c.x, c.weight);
  for (const auto& [set, name] :
       {std::pair{c.out_mask, "out_mask"}, std::pair{c.support, "support"},
        std::pair{c.in_margin, "in_margin"}, std::pair{c.out_margin, "out_margin"}})
    if (set) kept_of(*set, name);  // refused here rather than in the backward pass
  const Tensor none = at::empty({0}, c.x.options());
  if (!c.out_mask) return {{"y", masked_input(c, c.weight, bias)}, {"before", none}};
  const Kernels& kernels = kernels_for(c.x);
  const int64_t outs = c.weight.size(0);
  const OptionalTensor learning = learning_of(c.gradient, c.out_mask, c.out_margin);
  const Tensor out = learning ? kept_of(*learning, "out_margin") : Tensor();
  if (!learning || !some_of(out, outs, c.window.groups)) {
    const Tensor before = masked_input(c, c.weight, bias);
    return {{"y", kernels.mask_channels(before, *c.out_mask)},
            {"before", c.gradient == Gradient::Kept ? none : before}};
  }
  const OptionalTensor part = bias ? OptionalTensor(bias->index_select(0, out)) : std::nullopt;
  const Tensor some = masked_input(c, c.weight.index_select(0, out), part);
  const Tensor before = scatter(some, out, outs, layout_of(c.x));
  if (c.gradient == Gradient::Kept) return {{"y", before}, {"before", none}};
  return {{"y", kernels.mask_channels(before, *c.out_mask)}, {"before", before}};
}

// <a_c, b_c> for every channel, in the mask's dtype.
Tensor channel_dots(const Tensor& a, const Tensor& b, const Tensor& mask) {
  return std::get<1>(kernels_for(a).mask_channels_backward(b, dense(a), mask));
}

// The gradient to the outputs, without those where it is known to be zero if leaving them out pays.
struct OutputGradient {
  Tensor grad, weight;  // of these outputs
  Tensor index;         // which outputs they are
  bool fewer;           // whether they are not all of them
};

OutputGradient output_gradient(const MaskedConv& c, const Tensor& grad) {
  const int64_t ins = c.x.size(1), outs = c.weight.size(0);
  const OptionalTensor& nonzero = c.out_mask ? c.out_mask : c.support;
  const Tensor index = nonzero ? kept_of(*nonzero, c.out_mask ? "out_mask" : "support") : Tensor();
  if (nonzero && some_of(index, outs, c.window.groups) &&
      compaction_pays(outs, index.numel(), ins, c.area(), 1))
    return {gather(grad, index), c.weight.index_select(0, index), index, true};
  const Tensor masked = c.out_mask ? kernels_for(c.x).mask_channels(grad, *c.out_mask) : grad;
  return {masked, c.weight, index, false};
}

struct InputGradients {
  Tensor x, mask;
};

InputGradients input_gradients(const MaskedConv& c, const OutputGradient& g, bool needs_x) {
  const int64_t ins = c.x.size(1);
  const Kernels& kernels = kernels_for(c.x);
  const OptionalTensor learning = learning_of(c.gradient, c.in_mask, c.in_margin);
  const Tensor wanted = learning ? kept_of(*learning, "in_margin") : Tensor();
  InputGradients found;
  if (learning && some_of(wanted, ins, c.window.groups)) {
    const Tensor weight = g.weight.index_select(1, wanted);
    const Tensor inner = convolve_back(g.grad, c.x, wanted.numel(), weight, c.window);
    const auto [masked, dots] = kernels.mask_channels_backward(inner, gather(c.x, wanted),
                                                               c.in_mask->index_select(0, wanted));
    found.mask = at::zeros_like(*c.in_mask).index_copy_(0, wanted, dots);
    if (needs_x) found.x = scatter(masked, wanted, ins, layout_of(c.x));
    return found;
  }
  found.x = convolve_back(g.grad, c.x, ins, g.weight, c.window);
  if (c.in_mask)
    std::tie(found.x, found.mask) = kernels.mask_channels_backward(found.x, c.x, *c.in_mask);
  if (learning) found.mask = found.mask * *learning;
  return found;
}

Tensor weight_gradient(const MaskedConv& c, const OutputGradient& g) {
  const Tensor kept = c.in_mask ? kept_of(*c.in_mask, "in_mask") : Tensor();
  const bool fewer = c.in_mask && some_of(kept, c.x.size(1), c.window.groups);
  const Tensor x = fewer ? gather(c.x, kept) : c.x;
  const Tensor weight = fewer ? g.weight.index_select(1, kept) : g.weight;
  Tensor inner = convolve_weight(g.grad, x, weight, c.window);
  if (fewer)
    inner = at::zeros_like(g.weight).index_copy_(1, kept, inner);
  else if (c.in_mask)
    inner = inner * on_weight(*c.in_mask, g.weight, c.window.groups);
  if (g.fewer) inner = at::zeros_like(c.weight).index_copy_(0, g.index, inner);
  return inner.strides() == c.weight.strides() ? inner : at::empty_like(c.weight).copy_(inner);
}

Tensor bias_gradient(const MaskedConv& c, const OutputGradient& g) {
  const Tensor sums = g.grad.sum({0, 2, 3});
  if (!g.fewer) return sums;
  return at::zeros({c.weight.size(0)}, g.grad.options()).index_copy_(0, g.index, sums);
}

// `before` is what the forward pass returned beside y, or y.
Results masked_conv2d_backward(const Arguments& given) {
  MaskedConv c(given);
  c.check();
  const Tensor grad = given.tensor("grad"), before = given.tensor("before");
  const std::vector<int64_t> sides = check_window(c.x, c.weight, c.window);
  const std::vector<int64_t> made{c.x.size(0), c.weight.size(0), sides[0], sides[1]};
  const bool needs_out_mask = given.flag("needs_out_mask") && c.out_mask.has_value();
  check_like(grad, "grad", made, c.x.scalar_type(), c.x);
  if (needs_out_mask) check_like(before, "before", made, c.x.scalar_type(), c.x);

  const Tensor like_x = grad.contiguous(format_of(layout_of(c.x)));
  Tensor to_out_mask;
  if (needs_out_mask) {
    to_out_mask = channel_dots(before, like_x, *c.out_mask);
    if (const OptionalTensor learning = learning_of(c.gradient, c.out_mask, c.out_margin))
      to_out_mask = to_out_mask * *learning;
  }
  const OutputGradient g = output_gradient(c, like_x);
  InputGradients to;
  const bool needs_x = given.flag("needs_x");
  if (needs_x || given.flag("needs_in_mask")) to = input_gradients(c, g, needs_x);
  const Tensor none = at::empty({0}, c.x.options());
  auto wanted = [&](const char* flag, const Tensor& t) {
    return given.flag(flag) && t.defined() ? t : at::empty_like(none);
  };
  return {
      {"grad_x", wanted("needs_x", to.x)},
      {"grad_weight", given.flag("needs_weight") ? weight_gradient(c, g) : at::empty_like(none)},
      {"grad_bias", given.flag("needs_bias") ? bias_gradient(c, g) : at::empty_like(none)},
      {"grad_in_mask", wanted("needs_in_mask", to.mask)},
      {"grad_out_mask", wanted("needs_out_mask", to_out_mask)}};
}

PT_REGISTER_BOXED(masked_conv2d)
PT_REGISTER_BOXED(masked_conv2d_backward)

}  // namespace

}  // namespace pass_transfer
