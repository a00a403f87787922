// A convolution with its batch normalisation, residual and ReLU under channel masks, and the
// gradients of all of them.
//
// A dropped channel's exact gradient costs the forward convolution of kept inputs to all outputs
// and the backward one of kept outputs to all inputs. Nothing is scattered, but on the CPU where a
// weight is so large beside the activations that it is used as it is.
#include "masked_conv_norm_act.h"

#include "convolve.h"
#include "cost.h"
#include "gather.h"

#include <algorithm>

namespace pass_transfer {

namespace {

bool is_whole(const Selection& which, int64_t width) {
  return !which.index.defined() && which.count == width;
}

// Channels of a weight that a convolution is computed with.
struct Part {
  Selection outs, ins;
};

// A weight's part in x's dtype and layout, each input times its mask where that is defined.
Tensor gathered(const Tensor& weight, const Part& part, const Tensor& mask, const Tensor& x) {
  const bool all = is_whole(part.outs, weight.size(0)) && is_whole(part.ins, weight.size(1));
  if (all && !mask.defined()) return weight.to(x.scalar_type());
  return kernels_for(weight).gather_weight(weight, x.scalar_type(), part.outs, part.ins, mask,
                                           layout_of(x));
}

// Whether to use a weight as it is, on activations whose channels are put in their places.
// That is on the CPU, where it is less work.
bool stays_whole(const Tensor& weight, const Part& part, const Tensor& x,
                 at::IntArrayRef out_sides) {
  const int64_t area = weight.size(2) * weight.size(3);
  const int64_t in_positions = x.size(0) * x.size(2) * x.size(3);
  const int64_t out_positions = x.size(0) * out_sides[0] * out_sides[1];
  return x.is_cpu() && !gathering_weights_pays(weight.size(1), part.ins.count, weight.size(0),
                                               part.outs.count, area, in_positions, out_positions);
}

// The numbers of a selection's channels.
Tensor all_of(const Selection& which, const Tensor& like) {
  if (which.index.defined()) return which.index;
  return at::arange(which.count, like.options().dtype(at::kLong));
}

// Channels of a selection among all of a width, zeros for the others.
Tensor placed(const Tensor& x, const Selection& which, int64_t width) {
  if (is_whole(which, width)) return x;
  return scatter(x, all_of(which, x), width, layout_of(x));
}

// The selection's channels again.
Tensor picked(const Tensor& x, const Selection& which) {
  return is_whole(which, x.size(1)) ? x : gather(x, all_of(which, x));
}

// The mask over the leading input channels; nothing where it is known to be all ones.
Tensor factors(const OptionalTensor& mask, int64_t count) {
  if (!mask) return Tensor();
  const Tensor m = mask->narrow(0, 0, count).to(at::kFloat).contiguous();
  if (!m.is_cpu()) return m;
  const float* values = m.const_data_ptr<float>();
  return std::all_of(values, values + count, [](float v) { return v == 1.0f; }) ? Tensor() : m;
}

Tensor or_empty(const Tensor& t, const Tensor& like) {
  return t.defined() ? t : at::empty({0}, like.options());
}

// The convolution of x's channels to all outputs that are made, plus a bias (O,).
Tensor convolved(const FusedLayer& layer, const Part& part, const OptionalTensor& bias) {
  const Tensor &x = layer.x, &weight = layer.weight;
  const Tensor m = factors(layer.in_mask, x.size(1));
  if (!stays_whole(weight, part, x, layer.sides())) {
    const OptionalTensor some = bias ? OptionalTensor(part.outs.of(*bias)) : std::nullopt;
    return convolve(x, gathered(weight, part, m, x), some, layer.window);
  }
  const Tensor masked = m.defined() ? kernels_for(x).mask_channels(x, m) : x;
  const Tensor whole = placed(masked, part.ins, weight.size(1));
  return picked(convolve(whole, weight.to(x.scalar_type()), bias, layer.window), part.outs);
}

// The normalisation that changes nothing.
Affine identity(const Tensor& x, int64_t count) {
  const auto sums = x.options().dtype(sums_of(x)), doubles = x.options().dtype(at::kDouble);
  return {at::zeros({count}, sums), at::empty({0}, doubles), at::ones({count}, doubles),
          at::zeros({count}, sums)};
}

// The results where the convolution itself is all there is.
Results of_convolution(const Tensor& y) {
  auto none = [&](at::ScalarType type) { return at::empty({0}, y.options().dtype(type)); };
  const at::ScalarType own = y.scalar_type(), sums = sums_of(y);
  return {{"out", y},
          {"out_dropped", none(own)},
          {"y", none(own)},
          {"mean", none(sums)},
          {"invstd", none(at::kDouble)},
          {"scale", none(at::kDouble)},
          {"shift", none(sums)},
          {"places", none(at::kByte)}};
}

// The activations that follow from y, and what the backward pass needs.
Results activated(const FusedLayer& layer, const ForwardOnly& only, const Tensor& y,
                  const Affine& affine) {
  const Kernels& kernels = kernels_for(y);
  const int64_t kept = only.out_kept, rest = only.out_count - only.out_kept;
  const bool normed = only.norm_weight.has_value();
  auto empty_unless_normed = [&](const Tensor& t) {
    return normed ? t : at::empty({0}, t.options());
  };
  Tensor out, dropped, places = at::empty({0}, y.options().dtype(at::kByte));
  if (const Pooling pool = layer.pooling(normed, only.residual.has_value())) {
    TORCH_CHECK_VALUE(pool.side(y.size(2)) > 0 && pool.side(y.size(3)) > 0,
                      "pool is larger than what it is given, ", y.sizes());
    std::tie(out, places) = kernels.norm_act_pool(y, 0, kept, affine, layer.relu, pool, true);
    if (rest > 0)
      dropped = std::get<0>(kernels.norm_act_pool(y, kept, rest, affine, layer.relu, pool, false));
  } else {
    out = kernels.norm_act(y, 0, kept, affine, only.residual, layer.relu);
    if (rest > 0)
      dropped = kernels.norm_act(y, kept, rest, affine, only.residual_dropped, layer.relu);
  }
  return {{"out", out},
          {"out_dropped", or_empty(dropped, y)},
          {"y", empty_unless_normed(y)},
          {"mean", empty_unless_normed(affine.mean)},
          {"invstd", affine.invstd},
          {"scale", empty_unless_normed(affine.scale)},
          {"shift", empty_unless_normed(affine.shift)},
          {"places", places}};
}

Results masked_conv_norm_act(const Arguments& given) {
  FusedLayer layer(given);
  const ForwardOnly only(given);
  layer.check(only.out_kept, only.out_count);
  only.check(layer);
  const bool normed = only.norm_weight.has_value();
  layer.pooling(normed, only.residual.has_value());  // refused before anything is computed
  const Part part{layer.outputs(only.out_count), layer.inputs(layer.ins()).first(layer.x.size(1))};
  // Normalisation takes a bias out again; what it rounded away would stay.
  const OptionalTensor bias =
      only.bias && !normed ? OptionalTensor(only.bias->to(layer.x.scalar_type())) : std::nullopt;
  const Tensor y = convolved(layer, part, bias);
  if (normed) {
    const Affine affine =
        kernels_for(y).normalisation(y, only.eps, *only.norm_weight, *only.norm_bias, part.outs);
    return activated(layer, only, y, affine);
  }
  if (!layer.relu && !only.residual && only.out_kept == only.out_count) return of_convolution(y);
  return activated(layer, only, y, identity(y, only.out_count));
}

// The gradients to the convolution's kept outputs and to the residual.
struct OutputGradients {
  Tensor y, residual;
};

OutputGradients output_gradients(const Arguments& given, const FusedLayer& layer,
                                 const Saved& saved) {
  const Tensor grad = given.tensor("grad");
  const bool added = given.flag("added"), needs_residual = given.flag("needs_residual");
  const Kernels& kernels = kernels_for(layer.x);
  const Pooling pool = layer.pooling(saved.affine.defined(), added);
  std::vector<int64_t> sides = layer.sides();
  if (pool) sides = {pool.side(sides[0]), pool.side(sides[1])};
  const at::ScalarType type = layer.x.scalar_type();
  check_like(saved.out, "out", {layer.x.size(0), saved.out.size(1), sides[0], sides[1]}, type,
             layer.x);
  check_like(grad, "grad", saved.out.sizes(), type, layer.x);
  if (pool) {
    check_like(saved.places, "places", saved.out.sizes(), at::kByte, layer.x);
    return {kernels.norm_act_pool_backward(grad, saved.places, saved.y, saved.affine, pool),
            Tensor()};
  }
  if (saved.affine.defined() || layer.relu) {
    OutputGradients found;
    std::tie(found.y, found.residual) = kernels.norm_act_backward(
        grad, saved.out, saved.y, saved.affine, layer.relu, added, needs_residual);
    return found;
  }
  if (!needs_residual) return {grad, Tensor()};
  const auto format = format_of(layout_of(saved.out));
  return {grad, at::empty(saved.out.sizes(), saved.out.options(), format).copy_(grad)};
}

// The gradient to a part's inputs, from that to its outputs.
Tensor convolved_back(const FusedLayer& layer, const Part& part, const Tensor& grad) {
  const Tensor &x = layer.x, &weight = layer.weight;
  if (!stays_whole(weight, part, x, grad.sizes().slice(2)))
    return convolve_back(grad, x, part.ins.count, gathered(weight, part, Tensor(), x),
                         layer.window);
  const Tensor whole = placed(grad, part.outs, weight.size(0));
  const Tensor inner =
      convolve_back(whole, x, weight.size(1), weight.to(x.scalar_type()), layer.window);
  return picked(inner, part.ins);
}

// The first results of the forward pass are `saved`, empty where nothing was normalised.
Results masked_conv_norm_act_backward(const Arguments& given) {
  FusedLayer layer(given);
  const Tensor out = given.tensor("out");
  TORCH_CHECK_VALUE(out.dim() == 4, "out has shape ", out.sizes(),
                    "; it must be (batch, channels, height, width)");
  layer.check(out.size(1), out.size(1));
  const Saved saved(given, layer);
  const bool needs_x = given.flag("needs_x"), needs_mask = given.flag("needs_in_mask");
  const int64_t ins = layer.x.size(1), all_ins = needs_mask ? layer.ins() : ins;
  const Part part{layer.outputs(out.size(1)), layer.inputs(all_ins)};
  const OutputGradients to = output_gradients(given, layer, saved);

  Tensor to_x, to_mask;
  if (needs_x || needs_mask) {
    Tensor inner = convolved_back(layer, part, to.y);
    if (needs_mask && layer.in_mask) {
      to_mask =
          kernels_for(inner).mask_gradient(layer.x, layer.dropped, *layer.in_mask, inner, needs_x);
    } else if (needs_x && layer.in_mask) {
      const Tensor m = factors(layer.in_mask, ins);
      if (m.defined()) inner.mul_(m.to(inner.scalar_type()).view({1, ins, 1, 1}));
    }
    if (needs_x) to_x = all_ins > ins ? inner.narrow(1, 0, ins) : inner;
  }
  const Tensor& like_mask = layer.in_mask ? *layer.in_mask : layer.x;
  return {{"grad_x", or_empty(to_x, layer.x)},
          {"grad_in_mask", or_empty(to_mask, like_mask)},
          {"grad_residual", or_empty(to.residual, layer.x)}};
}

PT_REGISTER_BOXED(masked_conv_norm_act)
PT_REGISTER_BOXED(masked_conv_norm_act_backward)

}  // namespace

}  // namespace pass_transfer
