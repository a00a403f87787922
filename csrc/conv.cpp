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
  TORCH_CHECK_VALUE(mask.eq(0).logical_or(mask.eq(1)).all().item<bool>(), name, " holds other values than 0 and 1");
  return mask.nonzero().flatten();
}

// A mask over input channels as a factor on the weight (O, C / groups, kh, kw).
Tensor on_weight(const Tensor& mask, const Tensor& weight, int64_t groups) {
  const int64_t out = weight.size(0), in = weight.size(1);
  return mask.to(weight.scalar_type()).view({groups, 1, in}).expand({groups, out / groups, in}).reshape({out, in, 1, 1});
}

void check(const Tensor& x, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Maybe& out_mask, const Maybe& support,
           const Maybe& in_margin, const Maybe& out_margin, const Window& w) {
  check_pair(x, weight);
  TORCH_CHECK_VALUE(w.groups >= 1 && x.size(1) == weight.size(1) * w.groups && weight.size(0) % w.groups == 0, "x has ", x.size(1),
                    " channels, weight ", weight.sizes(), ", groups is ", w.groups, "; they do not fit");
  check_window(x, weight, w);
  if (bias) TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == weight.size(0), "bias has shape ", bias->sizes(), "; it must be (", weight.size(0), ",)");
  if (bias) TORCH_CHECK_TYPE(bias->scalar_type() == x.scalar_type(), "bias is ", bias->scalar_type(), ", x ", x.scalar_type());
  if (in_mask) check_vector(*in_mask, x, x.size(1), "in_mask");
  if (out_mask) check_vector(*out_mask, x, weight.size(0), "out_mask");
  if (support) check_vector(*support, x, weight.size(0), "support");
  if (in_margin) check_vector(*in_margin, x, x.size(1), "in_margin");
  if (out_margin) check_vector(*out_margin, x, weight.size(0), "out_margin");
}

bool some_of(const Tensor& index, int64_t channels, int64_t groups) {
  return index.defined() && groups == 1 && index.numel() > 0 && index.numel() < channels;
}

// conv(in_mask * x, weight) + bias.
Tensor masked_input(const Tensor& x, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Tensor& kept, const Window& w) {
  if (!in_mask || (kept.defined() && kept.numel() == x.size(1))) return convolve(x, weight, bias, w);
  if (some_of(kept, x.size(1), w.groups) && compaction_pays(x.size(1), kept.numel(), weight.size(0), weight.size(2) * weight.size(3), w.stride[0] * w.stride[1]))
    return convolve(gather(x, kept), weight.index_select(1, kept), bias, w).contiguous(format_of(layout_of(x)));  // of one channel it may be the other
  return convolve(x, weight * on_weight(*in_mask, weight, w.groups), bias, w);
}

// Channels whose mask element gets its gradient, as a binary mask; nothing: all of them.
Maybe heard_of(Gradient mode, const Maybe& mask, const Maybe& margin) {
  if (!mask || mode == Gradient::Exact) return std::nullopt;
  if (mode == Gradient::Kept || !margin) return mask;
  return at::maximum(*mask, margin->to(mask->scalar_type()));
}

// y, and what the backward pass needs of it: the outputs before out_mask (nothing where y itself serves).
std::tuple<Tensor, Tensor> masked_conv2d(const Tensor& x_in, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Maybe& out_mask,
                                             c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups,
                                             c10::string_view gradient, const Maybe& support, const Maybe& in_margin, const Maybe& out_margin) {
  const Window w(stride, padding, dilation, groups.expect_int());
  const Gradient mode = gradient_of(gradient);
  check(x_in, weight, bias, in_mask, out_mask, support, in_margin, out_margin, w);
  for (const auto& [set, name] : {std::pair{out_mask, "out_mask"}, std::pair{support, "support"}, std::pair{in_margin, "in_margin"}, std::pair{out_margin, "out_margin"}})
    if (set) kept_of(*set, name);  // refused here rather than in the backward pass
  const Tensor x = dense(x_in), kept = in_mask ? kept_of(*in_mask, "in_mask") : Tensor(), none = at::empty({0}, x.options());
  if (!out_mask) return {masked_input(x, weight, bias, in_mask, kept, w), none};
  const Maybe heard = heard_of(mode, out_mask, out_margin);
  const Tensor out = heard ? kept_of(*heard, "out_margin") : Tensor();
  if (!heard || !some_of(out, weight.size(0), w.groups)) {
    const Tensor before = masked_input(x, weight, bias, in_mask, kept, w);
    return {kernels_for(x).mask_channels(before, *out_mask), mode == Gradient::Kept ? none : before};
  }
  const Maybe part = bias ? Maybe(bias->index_select(0, out)) : std::nullopt;
  const Tensor before = scatter(masked_input(x, weight.index_select(0, out), part, in_mask, kept, w), out, weight.size(0), layout_of(x));
  if (mode == Gradient::Kept) return {before, none};
  return {kernels_for(x).mask_channels(before, *out_mask), before};
}

// <a_c, b_c> for every channel, in the mask's dtype.
Tensor channel_dots(const Tensor& a, const Tensor& b, const Tensor& mask) {
  return std::get<1>(kernels_for(a).mask_channels_backward(b, dense(a), mask));
}

// Gradients to (x, weight, bias, in_mask, out_mask). `before` is what the forward pass returned beside y, or y.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> masked_conv2d_backward(
    const Tensor& grad_in, const Tensor& x_in, const Tensor& weight, const Maybe& in_mask, const Maybe& out_mask, const Tensor& before,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups, c10::string_view gradient,
    const Maybe& support, const Maybe& in_margin, const Maybe& out_margin, std::array<bool, 5> needs) {
  const Window w(stride, padding, dilation, groups.expect_int());
  const Gradient mode = gradient_of(gradient);
  check(x_in, weight, std::nullopt, in_mask, out_mask, support, in_margin, out_margin, w);
  const std::vector<int64_t> sides = check_window(x_in, weight, w), made{x_in.size(0), weight.size(0), sides[0], sides[1]};
  check_like(grad_in, "grad", made, x_in.scalar_type(), x_in);
  if (needs[4] && out_mask) check_like(before, "before", made, x_in.scalar_type(), x_in);
  const Tensor x = dense(x_in), grad = grad_in.contiguous(format_of(layout_of(x)));
  const int64_t ins = x.size(1), outs = weight.size(0), area = weight.size(2) * weight.size(3);
  const Kernels& kernels = kernels_for(x);
  Tensor dx, dw, db, din, dout;
  if (needs[4] && out_mask) {
    dout = channel_dots(before, grad, *out_mask);
    if (const Maybe heard = heard_of(mode, out_mask, out_margin)) dout = dout * *heard;
  }

  // The outputs whose gradient is not zero.
  const Maybe& loud = out_mask ? out_mask : support;
  const Tensor out = loud ? kept_of(*loud, out_mask ? "out_mask" : "support") : Tensor();
  const bool fewer_outs = loud && some_of(out, outs, w.groups) && compaction_pays(outs, out.numel(), ins, area, 1);
  const Tensor g = fewer_outs ? gather(grad, out) : out_mask ? kernels.mask_channels(grad, *out_mask) : grad;
  const Tensor weight_out = fewer_outs ? weight.index_select(0, out) : weight;

  if (needs[0] || needs[3]) {
    const Maybe heard = heard_of(mode, in_mask, in_margin);
    const Tensor wanted = heard ? kept_of(*heard, "in_margin") : Tensor();
    if (heard && some_of(wanted, ins, w.groups)) {
      const Tensor inner = convolve_back(g, x, wanted.numel(), weight_out.index_select(1, wanted), w);
      const auto [masked, dots] = kernels.mask_channels_backward(inner, gather(x, wanted), in_mask->index_select(0, wanted));
      if (needs[3]) din = at::zeros_like(*in_mask).index_copy_(0, wanted, dots);
      if (needs[0]) dx = scatter(masked, wanted, ins, layout_of(x));
    } else {
      dx = convolve_back(g, x, ins, weight_out, w);
      if (in_mask) std::tie(dx, din) = kernels.mask_channels_backward(dx, x, *in_mask);
      if (heard) din = din * *heard;
    }
  }
  if (needs[1]) {
    const Tensor kept = in_mask ? kept_of(*in_mask, "in_mask") : Tensor();
    const bool fewer_ins = in_mask && some_of(kept, ins, w.groups);
    Tensor inner = convolve_weight(g, fewer_ins ? gather(x, kept) : x, fewer_ins ? weight_out.index_select(1, kept) : weight_out, w);
    if (fewer_ins) inner = at::zeros_like(weight_out).index_copy_(1, kept, inner);
    else if (in_mask) inner = inner * on_weight(*in_mask, weight_out, w.groups);
    dw = fewer_outs ? at::zeros_like(weight).index_copy_(0, out, inner) : inner;
  }
  if (needs[2]) {
    const Tensor sums = g.sum({0, 2, 3});
    db = fewer_outs ? at::zeros({outs}, g.options()).index_copy_(0, out, sums) : sums;
  }
  if (dw.defined() && dw.strides() != weight.strides()) dw = at::empty_like(weight).copy_(dw);
  auto given = [&](bool needed, const Tensor& t) { return needed && t.defined() ? t : at::empty({0}, x.options()); };
  return {given(needs[0], dx), given(needs[1], dw), given(needs[2], db), given(needs[3], din), given(needs[4], dout)};
}

PT_REGISTER(masked_conv2d, &masked_conv2d)
PT_REGISTER(masked_conv2d_backward, &masked_conv2d_backward)

}  // namespace

}  // namespace pass_transfer
