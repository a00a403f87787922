// A convolution with its batch normalisation, residual and ReLU under channel masks, and the
// gradients of all of them.
//
// Channels come in an order: kept ones first. What follows them in the input (`shadow`) is
// read by the mask's gradient alone, what follows them in the output is computed for the next
// layer's. So a dropped channel's exact gradient costs the forward convolution of kept inputs
// to all outputs and the backward one of kept outputs to all inputs, and nothing is scattered, but
// on the CPU where a weight is so large beside the activations that it is used as it is.
#include "convolve.h"
#include "cost.h"
#include "gather.h"

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
    std::vector<bool> named(width);
    for (int64_t i = 0; i < count; ++i) {
      TORCH_CHECK_VALUE(values[i] >= 0 && values[i] < width, name, "[", i, "] is ", values[i], "; the weight has ", width, " such channels");
      TORCH_CHECK_VALUE(!named[values[i]], name, " names channel ", values[i], " twice");
      named[values[i]] = true;
    }
  }
  return {index, count};
}

// A weight's part in x's dtype and layout.
Tensor gathered(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& mask, const Tensor& x) {
  if (!outs.index.defined() && !ins.index.defined() && !mask.defined() && outs.count == weight.size(0) && ins.count == weight.size(1)) return weight.to(x.scalar_type());
  return kernels_for(weight).gather_weight(weight, x.scalar_type(), outs, ins, mask, layout_of(x));
}

// Whether to use a weight as it is, on activations whose channels are put in their places: on the CPU, where that is less work.
bool stays_whole(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& x, at::IntArrayRef out_sides) {
  const int64_t area = weight.size(2) * weight.size(3), in_positions = x.size(0) * x.size(2) * x.size(3), out_positions = x.size(0) * out_sides[0] * out_sides[1];
  return x.is_cpu() && !gathering_weights_pays(weight.size(1), ins.count, weight.size(0), outs.count, area, in_positions, out_positions);
}

// The numbers of a selection's channels.
Tensor all_of(const Selection& which, const Tensor& like) { return which.index.defined() ? which.index : at::arange(which.count, like.options().dtype(at::kLong)); }

// Channels of a selection among all of a width, zeros for the others, and the selection's channels again.
Tensor placed(const Tensor& x, const Selection& which, int64_t width) {
  return !which.index.defined() && which.count == width ? x : scatter(x, all_of(which, x), width, layout_of(x));
}
Tensor picked(const Tensor& x, const Selection& which) { return !which.index.defined() && which.count == x.size(1) ? x : gather(x, all_of(which, x)); }

Pooling pooling(at::IntArrayRef values, bool normed, bool added, const Tensor& x) {
  if (values.empty()) return {};
  TORCH_CHECK_VALUE(values.size() == 3, "pool has ", values.size(), " values; it must have kernel, stride and padding");
  const Pooling pool{values[0], values[1], values[2]};
  TORCH_CHECK_VALUE(1 <= pool.kernel && pool.kernel < 16 && pool.stride >= 1 && 0 <= pool.padding && 2 * pool.padding <= pool.kernel, "pool is ", values,
                    "; its kernel can have 1 to 15 positions, its stride be 1 or more, its padding up to half of the kernel");
  TORCH_CHECK_VALUE(normed && !added, "pool needs norm_weight, and no residual");
  TORCH_CHECK_VALUE(kernels_for(x).norm_act_pool != nullptr, "pool is fused on a GPU alone");
  return pool;
}

// The mask over the leading input channels; nothing where it is known to be all ones.
Tensor factors(const Maybe& mask, int64_t count) {
  if (!mask) return Tensor();
  const Tensor m = mask->narrow(0, 0, count).to(at::kFloat).contiguous();
  if (!m.is_cpu()) return m;
  const float* values = m.const_data_ptr<float>();
  return std::all_of(values, values + count, [](float v) { return v == 1.0f; }) ? Tensor() : m;
}

void check_block(const Tensor& x, const Maybe& shadow, const Maybe& in_mask, const Tensor& weight, const Maybe& bias, const Maybe& norm_weight, const Maybe& norm_bias,
                 const Maybe& residual, const Maybe& residual_shadow, int64_t out_kept, int64_t out_count, const Window& w) {
  check_shapes(x, weight);
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()) && (weight.scalar_type() == x.scalar_type() || (weight.scalar_type() == at::kFloat && at::isReducedFloatingType(x.scalar_type()))),
                   "x is ", x.scalar_type(), " and weight ", weight.scalar_type(), "; they must be of one floating dtype, or weight float32 and x of 16 bits");
  if (shadow) {
    TORCH_CHECK_VALUE(shadow->dim() == 4, "shadow has shape ", shadow->sizes(), "; x has ", x.sizes());
    check_like(*shadow, "shadow", {x.size(0), shadow->size(1), x.size(2), x.size(3)}, x.scalar_type(), x);
  }
  TORCH_CHECK_VALUE(x.size(1) >= 1, "x has shape ", x.sizes(), "; it must have a channel to compute with");
  const int64_t ins = x.size(1) + (shadow ? shadow->size(1) : 0);
  TORCH_CHECK_VALUE(ins <= weight.size(1), "x and shadow have ", ins, " channels, weight takes ", weight.size(1));
  if (in_mask) check_vector(*in_mask, x, ins, "in_mask");
  if (shadow) {
    TORCH_CHECK_VALUE(in_mask.has_value(), "shadow is given without in_mask");
    if (x.is_cpu()) TORCH_CHECK_VALUE(in_mask->slice(0, x.size(1)).eq(0).all().item<bool>(), "in_mask is not zero for shadow's channels");
  }
  TORCH_CHECK_VALUE(0 < out_kept && out_kept <= out_count && out_count <= weight.size(0), "out_kept is ", out_kept, " and out_count ", out_count,
                    "; weight has ", weight.size(0), " outputs");
  for (const auto& [values, name] : {std::pair{bias, "bias"}, std::pair{norm_weight, "norm_weight"}, std::pair{norm_bias, "norm_bias"}})
    if (values) check_vector(*values, x, weight.size(0), name);
  TORCH_CHECK_VALUE(norm_weight.has_value() == norm_bias.has_value(), "norm_weight and norm_bias come together");
  const std::vector<int64_t> sides = check_window(x, weight, w);
  std::vector<int64_t> out{x.size(0), out_kept, sides[0], sides[1]};
  if (residual) check_like(*residual, "residual", out, x.scalar_type(), x);
  out[1] = out_count - out_kept;
  if (residual_shadow) check_like(*residual_shadow, "residual_shadow", out, x.scalar_type(), x);
  TORCH_CHECK_VALUE(residual.has_value() || !residual_shadow.has_value(), "residual_shadow is given without residual");
}

// What the forward pass says of y's normalisation, all undefined where nothing was normalised; refused where it is not of y, or y not of these sides.
Affine check_saved(const Tensor& x, const Tensor& y, const Tensor& mean, const Tensor& invstd, const Tensor& scale, const Tensor& shift, int64_t out_kept,
                   at::IntArrayRef sides) {
  if (mean.numel() == 0) return {};
  TORCH_CHECK_VALUE(y.dim() == 4 && y.size(1) >= out_kept, "y has shape ", y.sizes(), "; it must have at least ", out_kept, " channels");
  check_like(y, "y", {x.size(0), y.size(1), sides[0], sides[1]}, x.scalar_type(), x);
  for (const auto& [values, name, type] : {std::tuple{mean, "mean", sums_of(x)}, std::tuple{invstd, "invstd", at::kDouble}, std::tuple{scale, "scale", at::kDouble},
                                           std::tuple{shift, "shift", sums_of(x)}})
    check_like(values, name, {y.size(1)}, type, x);
  return Affine{mean.contiguous(), invstd.contiguous(), scale.contiguous(), shift.contiguous()}.first(out_kept);
}

Tensor or_empty(const Tensor& t, const Tensor& like) { return t.defined() ? t : at::empty({0}, like.options()); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> masked_conv_norm_act(
    const Tensor& x_in, const Maybe& shadow, const Maybe& in_mask, const Maybe& in_order, const Tensor& weight, const Maybe& bias,
    const Maybe& norm_weight, const Maybe& norm_bias, double eps, const Maybe& residual, const Maybe& residual_shadow, const Maybe& out_order,
    int64_t out_kept, int64_t out_count, bool relu, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
    at::IntArrayRef pooled) {
  const Window w(stride, padding, dilation, 1);
  check_block(x_in, shadow, in_mask, weight, bias, norm_weight, norm_bias, residual, residual_shadow, out_kept, out_count, w);
  TORCH_CHECK_VALUE(!norm_weight || eps > 0, "eps is ", eps, "; it must be positive");
  const Pooling pool = pooling(pooled, norm_weight.has_value(), residual.has_value(), x_in);
  const Tensor x = dense(x_in);
  const int64_t ins = x.size(1);
  const Kernels& kernels = kernels_for(x);
  const Selection all_in = selection(in_order, ins + (shadow ? shadow->size(1) : 0), weight.size(1), x, "in_order"), in = all_in.first(ins), out = selection(out_order, out_count, weight.size(0), x, "out_order");
  const Tensor m = factors(in_mask, ins);
  // Normalisation takes a bias out again; what it rounded away would stay.
  const Maybe added = bias && !norm_weight ? Maybe(bias->to(x.scalar_type())) : std::nullopt;
  Tensor y;
  if (stays_whole(weight, out, in, x, check_window(x, weight, w))) {
    y = picked(convolve(placed(m.defined() ? kernels.mask_channels(x, m) : x, in, weight.size(1)), weight.to(x.scalar_type()), added, w), out);
  } else {
    y = convolve(x, gathered(weight, out, in, m, x), added ? Maybe(out.of(*added)) : std::nullopt, w);
  }

  const auto sums = x.options().dtype(sums_of(x)), doubles = x.options().dtype(at::kDouble);
  const Tensor no_places = at::empty({0}, x.options().dtype(at::kByte));
  Affine affine;
  if (norm_weight) {
    affine = kernels.normalisation(y, eps, *norm_weight, *norm_bias, out);
  } else if (!relu && !residual && out_kept == out_count) {
    const Tensor none = at::empty({0}, x.options()), no_sums = at::empty({0}, sums), no_doubles = at::empty({0}, doubles);
    return {y, none, at::empty_like(none), no_sums, no_doubles, at::empty_like(no_doubles), at::empty_like(no_sums), no_places};
  } else {
    affine = {at::zeros({out_count}, sums), at::empty({0}, doubles), at::ones({out_count}, doubles), at::zeros({out_count}, sums)};
  }
  if (pool) {
    TORCH_CHECK_VALUE(pool.side(y.size(2)) > 0 && pool.side(y.size(3)) > 0, "pool is larger than what it is given, ", y.sizes());
    const auto [a, places] = kernels.norm_act_pool(y, 0, out_kept, affine, relu, pool, true);
    const Tensor rest = out_kept < out_count ? std::get<0>(kernels.norm_act_pool(y, out_kept, out_count - out_kept, affine, relu, pool, false)) : Tensor();
    return {a, or_empty(rest, x), y, affine.mean, affine.invstd, affine.scale, affine.shift, places};
  }
  const Tensor a = kernels.norm_act(y, 0, out_kept, affine, residual, relu);
  const Tensor rest = out_kept < out_count ? kernels.norm_act(y, out_kept, out_count - out_kept, affine, residual_shadow, relu) : Tensor();
  auto if_normed = [&](const Tensor& t) { return norm_weight ? t : at::empty({0}, t.options()); };
  return {a, or_empty(rest, x), if_normed(y), if_normed(affine.mean), affine.invstd, if_normed(affine.scale), if_normed(affine.shift), no_places};
}

// Gradients to (x, in_mask, residual). `mean` and what follows it are the forward pass's, empty where nothing was normalised.
std::tuple<Tensor, Tensor, Tensor> masked_conv_norm_act_backward(
    const Tensor& grad, const Tensor& x_in, const Maybe& shadow, const Maybe& in_mask, const Maybe& in_order, const Tensor& weight, const Tensor& a,
    const Tensor& y, const Tensor& mean, const Tensor& invstd, const Tensor& scale, const Tensor& shift, const Tensor& places, bool added,
    const Maybe& out_order, bool relu, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, at::IntArrayRef pooled,
    std::array<bool, 3> needs) {
  const Window w(stride, padding, dilation, 1);
  const Tensor x = dense(x_in);
  TORCH_CHECK_VALUE(a.dim() == 4, "a has shape ", a.sizes(), "; it must be (batch, channels, height, width)");
  const int64_t out_kept = a.size(1);
  check_block(x, shadow, in_mask, weight, std::nullopt, std::nullopt, std::nullopt, std::nullopt, std::nullopt, out_kept, out_kept, w);
  const std::vector<int64_t> sides = check_window(x, weight, w);
  const Affine affine = check_saved(x, y, mean, invstd, scale, shift, out_kept, sides);
  const Pooling pool = pooling(pooled, affine.defined(), added, x);
  check_like(a, "a", pool ? std::vector<int64_t>{x.size(0), out_kept, pool.side(sides[0]), pool.side(sides[1])} : std::vector<int64_t>{x.size(0), out_kept, sides[0], sides[1]},
             x.scalar_type(), x);
  check_like(grad, "grad", a.sizes(), x.scalar_type(), x);
  if (pool) check_like(places, "places", a.sizes(), at::kByte, x);
  const int64_t ins = x.size(1), shadows = needs[1] && shadow ? shadow->size(1) : 0;
  const Kernels& kernels = kernels_for(x);
  const Selection in = selection(in_order, ins + shadows, weight.size(1), x, "in_order"), out = selection(out_order, out_kept, weight.size(0), x, "out_order");

  Tensor g = grad, passed;
  if (pool) {
    g = kernels.norm_act_pool_backward(grad, places, y, affine, pool);
  } else if (affine.defined() || relu) {
    std::tie(g, passed) = kernels.norm_act_backward(grad, a, y, affine, relu, added, needs[2]);
  } else if (needs[2]) {
    passed = at::empty(a.sizes(), a.options(), format_of(layout_of(a))).copy_(grad);
  }

  Tensor dx, dmask;
  if (needs[0] || needs[1]) {
    Tensor inner;
    if (stays_whole(weight, out, in, x, g.sizes().slice(2))) {
      inner = picked(convolve_back(placed(g, out, weight.size(0)), x, weight.size(1), weight.to(x.scalar_type()), w), in);
    } else {
      inner = convolve_back(g, x, ins + shadows, gathered(weight, out, in, Tensor(), x), w);
    }
    if (needs[1] && in_mask) {
      dmask = kernels.mask_gradient(x, shadow, *in_mask, inner, needs[0]);
    } else if (needs[0] && in_mask) {
      const Tensor m = factors(in_mask, ins);
      if (m.defined()) inner.mul_(m.to(x.scalar_type()).view({1, ins, 1, 1}));
    }
    if (needs[0]) dx = shadows ? inner.narrow(1, 0, ins) : inner;
  }
  return {or_empty(dx, x), or_empty(dmask, in_mask ? *in_mask : x), or_empty(passed, x)};
}

PT_REGISTER(masked_conv_norm_act, &masked_conv_norm_act)
PT_REGISTER(masked_conv_norm_act_backward, &masked_conv_norm_act_backward)

}  // namespace

}  // namespace pass_transfer
