// Masked convolution on the CPU: kept channels are gathered, oneDNN (through ATen) does the
// arithmetic on what is left, and one pass applies the mask and reduces its gradient.
#include "common.h"
#include "cost.h"

#include <optional>

namespace pass_transfer {

Tensor mask_channels_cpu(const Tensor& x, const Tensor& mask);
std::tuple<Tensor, Tensor> mask_channels_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& mask);

namespace {

using Maybe = std::optional<Tensor>;

struct Window {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

enum class Gradient { Exact, Kept };

Gradient gradient_of(c10::string_view name) {
  if (name == "exact") return Gradient::Exact;
  TORCH_CHECK_VALUE(name == "kept", "gradient is '", name, "'; choose exact or kept");
  return Gradient::Kept;
}

// A binary mask's kept channels, (kept,) int64.
Tensor kept_of(const Tensor& mask, const char* name) {
  const Tensor kept = mask.nonzero().flatten();
  TORCH_CHECK_VALUE(mask.sum().item<double>() == static_cast<double>(kept.numel()) && mask.index_select(0, kept).eq(1).all().item<bool>(),
                    name, " holds other values than 0 and 1");
  return kept;
}

// Channels of a tensor, in its own layout.
Tensor gather(const Tensor& x, const Tensor& index) {
  Tensor out = x.index_select(1, index);
  return layout_of(x) == Layout::Rows ? out.contiguous(at::MemoryFormat::ChannelsLast) : out;
}

// The inverse: zeros elsewhere.
Tensor scatter(const Tensor& part, const Tensor& index, int64_t channels) {
  auto sizes = part.sizes().vec();
  sizes[1] = channels;
  Tensor out = at::zeros(sizes, part.options());
  if (layout_of(part) == Layout::Rows) out = out.contiguous(at::MemoryFormat::ChannelsLast);
  return out.index_copy_(1, index, part);
}

// A mask over input channels as a factor on the weight (O, C / groups, kh, kw).
Tensor on_weight(const Tensor& mask, const Tensor& weight, int64_t groups) {
  const int64_t out = weight.size(0), in = weight.size(1);
  return mask.to(weight.scalar_type()).view({groups, 1, in}).expand({groups, out / groups, in}).reshape({out, in, 1, 1});
}

void check(const Tensor& x, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Maybe& out_mask, const Maybe& support, const Window& w) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x has shape ", x.sizes(), "; it must be (batch, channels, height, width)");
  TORCH_CHECK_VALUE(weight.dim() == 4, "weight has shape ", weight.sizes(), "; it must be (out, in / groups, height, width)");
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()) && weight.scalar_type() == x.scalar_type(), "x is ", x.scalar_type(), " and weight ",
                   weight.scalar_type(), "; they must be of one floating dtype");
  TORCH_CHECK_VALUE(weight.device() == x.device(), "weight is on ", weight.device(), ", x on ", x.device());
  TORCH_CHECK_VALUE(w.groups >= 1 && x.size(1) == weight.size(1) * w.groups && weight.size(0) % w.groups == 0, "x has ", x.size(1),
                    " channels, weight ", weight.sizes(), ", groups is ", w.groups, "; they do not fit");
  for (int64_t d = 0; d < 2; ++d) {
    TORCH_CHECK_VALUE(w.stride[d] >= 1, "stride must be at least 1, not ", w.stride[d]);
    TORCH_CHECK_VALUE(w.dilation[d] >= 1, "dilation must be at least 1, not ", w.dilation[d]);
    TORCH_CHECK_VALUE(w.padding[d] >= 0, "padding must not be negative, it is ", w.padding[d]);
    TORCH_CHECK_VALUE(x.size(2 + d) + 2 * w.padding[d] >= w.dilation[d] * (weight.size(2 + d) - 1) + 1, "weight is larger than the padded x");
  }
  if (bias) TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == weight.size(0), "bias has shape ", bias->sizes(), "; it must be (", weight.size(0), ",)");
  if (bias) TORCH_CHECK_TYPE(bias->scalar_type() == x.scalar_type(), "bias is ", bias->scalar_type(), ", x ", x.scalar_type());
  if (in_mask) check_mask(*in_mask, x, x.size(1), "in_mask");
  if (out_mask) check_mask(*out_mask, x, weight.size(0), "out_mask");
  if (support) check_mask(*support, x, weight.size(0), "support");
}

Tensor convolve(const Tensor& x, const Tensor& weight, const Maybe& bias, const Window& w) {
  return at::convolution(x, weight, bias, w.stride, w.padding, w.dilation, false, {0, 0}, w.groups);
}

// conv(in_mask * x, weight) + bias.
Tensor masked_input(const Tensor& x, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Tensor& kept, const Window& w) {
  if (!in_mask || kept.numel() == x.size(1)) return convolve(x, weight, bias, w);
  if (w.groups == 1 && kept.numel() > 0 && compaction_pays(x.size(1), kept.numel(), weight.size(0), weight.size(2) * weight.size(3), w.stride[0] * w.stride[1]))
    return convolve(gather(x, kept), weight.index_select(1, kept), bias, w);
  return convolve(x, weight * on_weight(*in_mask, weight, w.groups), bias, w);
}

Window window(c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups) {
  auto plain = [](c10::SymIntArrayRef values) {
    std::vector<int64_t> out;
    for (const auto& v : values) out.push_back(v.expect_int());
    return out;
  };
  return {plain(stride), plain(padding), plain(dilation), groups.expect_int()};
}

}  // namespace

std::tuple<Tensor, Tensor> masked_conv2d_cpu(const Tensor& x_in, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Maybe& out_mask,
                                             c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups,
                                             c10::string_view gradient, const Maybe& support) {
  const Window w = window(stride, padding, dilation, groups);
  const Gradient mode = gradient_of(gradient);
  check(x_in, weight, bias, in_mask, out_mask, support, w);
  const Tensor x = dense(x_in), kept = in_mask ? kept_of(*in_mask, "in_mask") : Tensor();
  if (!out_mask) return {masked_input(x, weight, bias, in_mask, kept, w), at::empty({0}, x.options())};
  const Tensor out = kept_of(*out_mask, "out_mask");
  if (mode == Gradient::Kept && w.groups == 1 && out.numel() < weight.size(0) && out.numel() > 0) {
    const Maybe part = bias ? Maybe(bias->index_select(0, out)) : std::nullopt;
    return {scatter(masked_input(x, weight.index_select(0, out), part, in_mask, kept, w), out, weight.size(0)), at::empty({0}, x.options())};
  }
  const Tensor before = masked_input(x, weight, bias, in_mask, kept, w);
  return {mask_channels_cpu(before, *out_mask), mode == Gradient::Kept ? at::empty({0}, x.options()) : before};
}

// <a_c, b_c> for every channel, in the mask's dtype.
static Tensor channel_dots(const Tensor& a, const Tensor& b, const Tensor& mask) {
  return std::get<1>(mask_channels_backward_cpu(b, a, mask));
}

// Gradients to (x, weight, bias, in_mask, out_mask). `before` is what the forward pass returned beside y.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> masked_conv2d_backward_cpu(
    const Tensor& grad_in, const Tensor& x_in, const Tensor& weight, const Maybe& in_mask, const Maybe& out_mask, const Tensor& before,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, c10::SymInt groups, c10::string_view gradient,
    const Maybe& support, std::array<bool, 5> needs) {
  const Window w = window(stride, padding, dilation, groups);
  const Gradient mode = gradient_of(gradient);
  check(x_in, weight, std::nullopt, in_mask, out_mask, support, w);
  const Tensor x = dense(x_in);
  const Tensor grad = layout_of(x) == Layout::Rows ? grad_in.contiguous(at::MemoryFormat::ChannelsLast) : grad_in.contiguous();
  const int64_t ins = x.size(1), outs = weight.size(0), area = weight.size(2) * weight.size(3);
  const Tensor kept = in_mask ? kept_of(*in_mask, "in_mask") : Tensor();
  Tensor dx, dw, db, din, dout;
  if (needs[4] && out_mask) dout = channel_dots(before, grad, *out_mask);

  // The outputs whose gradient is not zero.
  const Maybe& heard = out_mask ? out_mask : support;
  const Tensor out = heard ? kept_of(*heard, out_mask ? "out_mask" : "support") : Tensor();
  const bool fewer_outs = heard && out.numel() < outs && w.groups == 1 && out.numel() > 0 && compaction_pays(outs, out.numel(), ins, area, 1);
  const Tensor g = fewer_outs ? gather(grad, out) : out_mask ? mask_channels_cpu(grad, *out_mask) : grad;
  const Tensor weight_out = fewer_outs ? weight.index_select(0, out) : weight;

  if (needs[0] || needs[3]) {
    const bool fewer_ins = in_mask && mode == Gradient::Kept && kept.numel() < ins && w.groups == 1 && kept.numel() > 0;
    const Tensor shape = fewer_ins ? at::empty({x.size(0), kept.numel(), x.size(2), x.size(3)}, x.options(), x.suggest_memory_format()) : x;
    const Tensor inner = std::get<0>(at::convolution_backward(g, shape, fewer_ins ? weight_out.index_select(1, kept) : weight_out, c10::nullopt,
                                                              w.stride, w.padding, w.dilation, false, {0, 0}, w.groups, {true, false, false}));
    if (!in_mask) {
      dx = inner;
    } else if (fewer_ins) {
      if (needs[3]) din = at::zeros_like(*in_mask).index_copy_(0, kept, channel_dots(gather(x, kept), inner, in_mask->index_select(0, kept)));
      if (needs[0]) dx = scatter(inner, kept, ins);
    } else {
      std::tie(dx, din) = mask_channels_backward_cpu(inner, x, *in_mask);
      if (mode == Gradient::Kept) din = din * *in_mask;
    }
  }
  if (needs[1]) {
    const bool fewer_ins = in_mask && kept.numel() < ins && w.groups == 1 && kept.numel() > 0;
    const Tensor part = fewer_ins ? weight_out.index_select(1, kept) : weight_out;
    Tensor inner = std::get<1>(at::convolution_backward(g, fewer_ins ? gather(x, kept) : x, part, c10::nullopt, w.stride, w.padding, w.dilation, false,
                                                        {0, 0}, w.groups, {false, true, false}));
    if (fewer_ins) inner = at::zeros_like(weight_out).index_copy_(1, kept, inner);
    else if (in_mask) inner = inner * on_weight(*in_mask, weight_out, w.groups);
    dw = fewer_outs ? at::zeros_like(weight).index_copy_(0, out, inner) : inner;
  }
  if (needs[2]) {
    const Tensor sums = g.sum({0, 2, 3});
    db = fewer_outs ? at::zeros({outs}, g.options()).index_copy_(0, out, sums) : sums;
  }
  auto given = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, x.options()); };
  return {given(dx), given(dw), given(db), given(din), given(dout)};
}

TORCH_LIBRARY_IMPL(pass_transfer, CPU, m) {
  m.impl("masked_conv2d", &masked_conv2d_cpu);
  m.impl("masked_conv2d_backward", &masked_conv2d_backward_cpu);
}

}  // namespace pass_transfer
