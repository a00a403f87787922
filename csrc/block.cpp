// A convolution with its batch normalisation, residual and ReLU under channel masks, and the
// gradients of all of them.
//
// Channels come in an order: kept ones first. What follows them in the input (`shadow`) is
// read by the mask's gradient alone, what follows them in the output is computed for the next
// layer's. So a dropped channel's exact gradient costs the forward convolution of kept inputs
// to all outputs and the backward one of kept outputs to all inputs, and nothing is scattered.
#include "kernels.h"

#include <algorithm>

namespace pass_transfer {

namespace {

// Checks a list of channels. On a GPU its values are not read: that would wait for the device.
Selection selection(const Maybe& order, int64_t count, int64_t width, const Tensor& x, const char* name) {
  if (!order) return {Tensor(), count};
  TORCH_CHECK_TYPE(order->scalar_type() == at::kLong && order->dim() == 1, name, " must be an int64 vector");
  TORCH_CHECK_VALUE(order->device() == x.device(), name, " is on ", order->device(), ", x on ", x.device());
  TORCH_CHECK_VALUE(order->numel() >= count, name, " has ", order->numel(), " entries, at least ", count, " are needed");
  const Tensor index = order->narrow(0, 0, count).contiguous();
  if (index.is_cpu()) {
    const int64_t* values = index.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i)
      TORCH_CHECK_VALUE(values[i] >= 0 && values[i] < width, name, "[", i, "] is ", values[i], "; the weight has ", width, " such channels");
  }
  return {index, count};
}

Tensor gathered(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& mask, Layout layout) {
  if (!outs.index.defined() && !ins.index.defined() && !mask.defined() && outs.count == weight.size(0) && ins.count == weight.size(1)) return weight;
  return kernels_for(weight).gather_weight(weight, outs, ins, mask, layout);
}

// The mask over the leading input channels; nothing where it is known to be all ones.
Tensor factors(const Maybe& mask, int64_t count) {
  if (!mask) return Tensor();
  const Tensor m = mask->narrow(0, 0, count).to(at::kFloat).contiguous();
  if (!m.is_cpu()) return m;
  const float* values = m.const_data_ptr<float>();
  return std::all_of(values, values + count, [](float v) { return v == 1.0f; }) ? Tensor() : m;
}

Tensor picked(const Maybe& values, const Selection& which, at::ScalarType type) {
  if (!values) return Tensor();
  const Tensor all = values->to(type);
  return which.index.defined() ? all.index_select(0, which.index) : all.narrow(0, 0, which.count).contiguous();
}

void check_block(const Tensor& x, const Maybe& shadow, const Maybe& in_mask, const Tensor& weight, const Maybe& norm_weight, const Maybe& norm_bias,
                 const Maybe& residual, const Maybe& residual_shadow, int64_t out_kept, int64_t out_count, const Window& w) {
  check_pair(x, weight);
  if (shadow) {
    TORCH_CHECK_VALUE(shadow->dim() == 4 && shadow->size(0) == x.size(0) && shadow->size(2) == x.size(2) && shadow->size(3) == x.size(3),
                      "shadow has shape ", shadow->sizes(), "; x has ", x.sizes());
    TORCH_CHECK_TYPE(shadow->scalar_type() == x.scalar_type(), "shadow is ", shadow->scalar_type(), ", x ", x.scalar_type());
    TORCH_CHECK_VALUE(shadow->device() == x.device(), "shadow is on ", shadow->device(), ", x on ", x.device());
  }
  const int64_t ins = x.size(1) + (shadow ? shadow->size(1) : 0);
  TORCH_CHECK_VALUE(ins <= weight.size(1), "x and shadow have ", ins, " channels, weight takes ", weight.size(1));
  if (in_mask) check_mask(*in_mask, x, ins, "in_mask");
  TORCH_CHECK_VALUE(0 < out_kept && out_kept <= out_count && out_count <= weight.size(0), "out_kept is ", out_kept, " and out_count ", out_count,
                    "; weight has ", weight.size(0), " outputs");
  for (const auto& [values, name] : {std::pair{norm_weight, "norm_weight"}, std::pair{norm_bias, "norm_bias"}})
    if (values) TORCH_CHECK_VALUE(values->dim() == 1 && values->size(0) == weight.size(0), name, " has shape ", values->sizes(), "; it must be (",
                                  weight.size(0), ",)");
  TORCH_CHECK_VALUE(norm_weight.has_value() == norm_bias.has_value(), "norm_weight and norm_bias come together");
  const std::vector<int64_t> sides = check_window(x, weight, w);
  std::vector<int64_t> out{x.size(0), out_kept, sides[0], sides[1]};
  if (residual) {
    TORCH_CHECK_VALUE(residual->sizes() == at::IntArrayRef(out), "residual has shape ", residual->sizes(), "; it must be ", at::IntArrayRef(out));
    TORCH_CHECK_TYPE(residual->scalar_type() == x.scalar_type(), "residual is ", residual->scalar_type(), ", x ", x.scalar_type());
  }
  if (residual_shadow) {
    out[1] = out_count - out_kept;
    TORCH_CHECK_VALUE(residual_shadow->sizes() == at::IntArrayRef(out), "residual_shadow has shape ", residual_shadow->sizes(), "; it must be ",
                      at::IntArrayRef(out));
    TORCH_CHECK_TYPE(residual_shadow->scalar_type() == x.scalar_type(), "residual_shadow is ", residual_shadow->scalar_type(), ", x ", x.scalar_type());
  }
  TORCH_CHECK_VALUE(residual.has_value() || !residual_shadow.has_value(), "residual_shadow is given without residual");
}

Tensor or_empty(const Tensor& t, const Tensor& like) { return t.defined() ? t : at::empty({0}, like.options()); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> masked_conv_norm_act(
    const Tensor& x_in, const Maybe& shadow, const Maybe& in_mask, const Maybe& in_order, const Tensor& weight, const Maybe& bias,
    const Maybe& norm_weight, const Maybe& norm_bias, double eps, const Maybe& residual, const Maybe& residual_shadow, const Maybe& out_order,
    int64_t out_kept, int64_t out_count, bool relu, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation) {
  const Window w(stride, padding, dilation, 1);
  check_block(x_in, shadow, in_mask, weight, norm_weight, norm_bias, residual, residual_shadow, out_kept, out_count, w);
  const Tensor x = dense(x_in);
  const int64_t ins = x.size(1);
  const Kernels& kernels = kernels_for(x);
  const Selection in = selection(in_order, ins, weight.size(1), x, "in_order"), out = selection(out_order, out_count, weight.size(0), x, "out_order");
  const auto sums = sums_of(x);
  const Tensor part = gathered(weight, out, in, factors(in_mask, ins), layout_of(x));
  // Normalisation takes a bias out again; what it rounded away would stay.
  const Tensor offsets = norm_weight ? Tensor() : picked(bias, out, x.scalar_type());
  const Tensor y = convolve(x, part, offsets.defined() ? Maybe(offsets) : std::nullopt, w);

  const auto options = x.options().dtype(sums);
  Tensor mean, invstd = at::empty({0}, options.dtype(at::kDouble));
  Affine affine{at::zeros({out_count}, options), at::ones({out_count}, options), at::zeros({out_count}, options)};
  if (norm_weight) {
    std::tie(mean, invstd) = kernels.batch_statistics(y, eps);
    affine = {mean, (picked(norm_weight, out, at::kDouble) * invstd).to(sums), picked(norm_bias, out, sums)};
  } else if (!relu && !residual && out_kept == out_count) {
    return {y, or_empty({}, x), at::empty({0}, x.options()), at::empty({0}, options), at::empty({0}, options.dtype(at::kDouble))};
  }
  const Tensor a = kernels.norm_act(y, 0, out_kept, affine, residual, relu);
  const Tensor rest = out_kept < out_count ? kernels.norm_act(y, out_kept, out_count - out_kept, affine, residual_shadow, relu) : Tensor();
  return {a, or_empty(rest, x), norm_weight ? y : at::empty({0}, x.options()), or_empty(mean, affine.mean), invstd};
}

// Gradients to (x, in_mask, residual).
std::tuple<Tensor, Tensor, Tensor> masked_conv_norm_act_backward(
    const Tensor& grad, const Tensor& x_in, const Maybe& shadow, const Maybe& in_mask, const Maybe& in_order, const Tensor& weight,
    const Maybe& norm_weight, const Tensor& a, const Tensor& y, const Tensor& mean, const Tensor& invstd, const Maybe& out_order, bool relu,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, std::array<bool, 3> needs) {
  const Window w(stride, padding, dilation, 1);
  const Tensor x = dense(x_in);
  const int64_t out_kept = a.size(1);
  check_block(x, shadow, in_mask, weight, norm_weight, norm_weight, std::nullopt, std::nullopt, out_kept, out_kept, w);
  check_gradient(grad, a);
  const int64_t ins = x.size(1), shadows = needs[1] && shadow ? shadow->size(1) : 0;
  const Kernels& kernels = kernels_for(x);
  const Selection in = selection(in_order, ins + shadows, weight.size(1), x, "in_order"), out = selection(out_order, out_kept, weight.size(0), x, "out_order");

  Tensor g = grad, passed;
  if (norm_weight) {
    const Tensor m = mean.narrow(0, 0, out_kept).contiguous(), s = invstd.narrow(0, 0, out_kept).contiguous();
    std::tie(g, passed) = kernels.norm_act_backward(grad, a, y, m, s, picked(norm_weight, out, at::kDouble) * s, relu, needs[2]);
  } else if (relu) {
    std::tie(g, passed) = kernels.norm_act_backward(grad, a, y, Tensor(), Tensor(), Tensor(), true, needs[2]);
  } else if (needs[2]) {
    passed = grad.clone();
  }

  Tensor dx, dmask;
  if (needs[0] || needs[1]) {
    const Tensor part = gathered(weight, out, in, Tensor(), layout_of(x));
    Tensor inner = convolve_back(g, x, ins + shadows, part, w);
    if (needs[1] && in_mask) {
      dmask = kernels.channel_dots(x, inner, 0);
      if (shadow) dmask = at::cat({dmask, shadows ? kernels.channel_dots(*shadow, inner, ins) : at::zeros({shadow->size(1)}, dmask.options())});
      dmask = dmask.to(in_mask->scalar_type());
    }
    if (needs[0]) {
      dx = shadows ? inner.narrow(1, 0, ins) : inner;
      const Tensor m = factors(in_mask, ins);
      if (m.defined()) dx.mul_(m.to(x.scalar_type()).view({1, ins, 1, 1}));
    }
  }
  return {or_empty(dx, x), or_empty(dmask, in_mask ? *in_mask : x), or_empty(passed, x)};
}

PT_REGISTER(masked_conv_norm_act, &masked_conv_norm_act)
PT_REGISTER(masked_conv_norm_act_backward, &masked_conv_norm_act_backward)

}  // namespace

}  // namespace pass_transfer
