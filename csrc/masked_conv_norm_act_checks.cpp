// What a fused layer is given is read, and refused where it does not fit.
#include "masked_conv_norm_act.h"

namespace pass_transfer {

namespace {

// Checks a list of channels. On a GPU its values are not read: that would wait for the device.
Selection selection(const OptionalTensor& order, int64_t count, int64_t width, const Tensor& x,
                    const char* name) {
  if (!order) return {Tensor(), count};
  TORCH_CHECK_TYPE(order->scalar_type() == at::kLong && order->dim() == 1, name,
                   " must be an int64 vector");
  TORCH_CHECK_VALUE(order->device() == x.device(), name, " is on ", order->device(), ", x on ",
                    x.device());
  TORCH_CHECK_VALUE(order->numel() >= count, name, " has ", order->numel(), " entries, at least ",
                    count, " are needed");
  const Tensor index = order->narrow(0, 0, count).contiguous();
  if (!index.is_cpu()) return {index, count};
  const int64_t* values = index.const_data_ptr<int64_t>();
  std::vector<bool> named(width);
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_VALUE(values[i] >= 0 && values[i] < width, name, "[", i, "] is ", values[i],
                      "; the weight has ", width, " such channels");
    TORCH_CHECK_VALUE(!named[values[i]], name, " names channel ", values[i], " twice");
    named[values[i]] = true;
  }
  return {index, count};
}

void check_types(const Tensor& x, const Tensor& weight) {
  const bool alike = weight.scalar_type() == x.scalar_type();
  const bool rounded =
      weight.scalar_type() == at::kFloat && at::isReducedFloatingType(x.scalar_type());
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()) && (alike || rounded), "x is ",
                   x.scalar_type(), " and weight ", weight.scalar_type(),
                   "; they must be of one floating dtype, or weight float32 and x of 16 bits");
}

void check_dropped(const Tensor& dropped, const OptionalTensor& in_mask, const Tensor& x) {
  TORCH_CHECK_VALUE(in_mask.has_value(), "dropped is given without in_mask");
  if (!x.is_cpu()) return;
  TORCH_CHECK_VALUE(in_mask->slice(0, x.size(1)).eq(0).all().item<bool>(),
                    "in_mask is not zero for dropped's channels");
}

}  // namespace

FusedLayer::FusedLayer(const Arguments& given)
    : x(given.tensor("x")),
      weight(given.tensor("weight")),
      dropped(given.optional("dropped")),
      in_mask(given.optional("in_mask")),
      in_order(given.optional("in_order")),
      out_order(given.optional("out_order")),
      window(given),
      relu(given.flag("relu")),
      pool(given.integers("pool")) {}

void FusedLayer::check(int64_t out_kept, int64_t out_count) {
  check_shapes(x, weight);
  check_types(x, weight);
  if (dropped) {
    TORCH_CHECK_VALUE(dropped->dim() == 4, "dropped has shape ", dropped->sizes(), "; x has ",
                      x.sizes());
    check_like(*dropped, "dropped", {x.size(0), dropped->size(1), x.size(2), x.size(3)},
               x.scalar_type(), x);
  }
  TORCH_CHECK_VALUE(x.size(1) >= 1, "x has shape ", x.sizes(),
                    "; it must have a channel to compute with");
  TORCH_CHECK_VALUE(ins() <= weight.size(1), "x and dropped have ", ins(),
                    " channels, weight takes ", weight.size(1));
  if (in_mask) check_vector(*in_mask, x, ins(), "in_mask");
  if (dropped) check_dropped(*dropped, in_mask, x);
  TORCH_CHECK_VALUE(0 < out_kept && out_kept <= out_count && out_count <= weight.size(0),
                    "out_kept is ", out_kept, " and out_count ", out_count, "; weight has ",
                    weight.size(0), " outputs");
  check_window(x, weight, window);
  x = dense(x);
}

Selection FusedLayer::inputs(int64_t count) const {
  return selection(in_order, count, weight.size(1), x, "in_order");
}

Selection FusedLayer::outputs(int64_t count) const {
  return selection(out_order, count, weight.size(0), x, "out_order");
}

Pooling FusedLayer::pooling(bool normed, bool added) const {
  if (pool.empty()) return {};
  TORCH_CHECK_VALUE(pool.size() == 3, "pool has ", pool.size(),
                    " values; it must have kernel, stride and padding");
  const Pooling found{pool[0], pool[1], pool[2]};
  TORCH_CHECK_VALUE(1 <= found.kernel && found.kernel < 16 && found.stride >= 1 &&
                        0 <= found.padding && 2 * found.padding <= found.kernel,
                    "pool is ", pool,
                    "; its kernel can have 1 to 15 positions, its stride be 1 or more, its padding "
                    "up to half of the kernel");
  TORCH_CHECK_VALUE(normed && !added, "pool needs norm_weight, and no residual");
  TORCH_CHECK_VALUE(kernels_for(x).norm_act_pool != nullptr, "pool is fused on a GPU alone");
  return found;
}

ForwardOnly::ForwardOnly(const Arguments& given)
    : bias(given.optional("bias")),
      norm_weight(given.optional("norm_weight")),
      norm_bias(given.optional("norm_bias")),
      residual(given.optional("residual")),
      residual_dropped(given.optional("residual_dropped")),
      eps(given.number("eps")),
      out_kept(given.integer("out_kept")),
      out_count(given.integer("out_count")) {}

void ForwardOnly::check(const FusedLayer& layer) const {
  const Tensor& x = layer.x;
  for (const auto& [values, name] : {std::pair{bias, "bias"}, std::pair{norm_weight, "norm_weight"},
                                     std::pair{norm_bias, "norm_bias"}})
    if (values) check_vector(*values, x, layer.weight.size(0), name);
  TORCH_CHECK_VALUE(norm_weight.has_value() == norm_bias.has_value(),
                    "norm_weight and norm_bias come together");
  const std::vector<int64_t> sides = layer.sides();
  std::vector<int64_t> made{x.size(0), out_kept, sides[0], sides[1]};
  if (residual) check_like(*residual, "residual", made, x.scalar_type(), x);
  made[1] = out_count - out_kept;
  if (residual_dropped) check_like(*residual_dropped, "residual_dropped", made, x.scalar_type(), x);
  TORCH_CHECK_VALUE(residual.has_value() || !residual_dropped.has_value(),
                    "residual_dropped is given without residual");
  TORCH_CHECK_VALUE(!norm_weight || eps > 0, "eps is ", eps, "; it must be positive");
}

Saved::Saved(const Arguments& given, const FusedLayer& layer)
    : out(given.tensor("out")), y(given.tensor("y")), places(given.tensor("places")) {
  const Tensor mean = given.tensor("mean"), invstd = given.tensor("invstd"),
               scale = given.tensor("scale"), shift = given.tensor("shift");
  if (mean.numel() == 0) return;
  const Tensor& x = layer.x;
  const std::vector<int64_t> sides = layer.sides();
  const int64_t out_kept = out.size(1);
  TORCH_CHECK_VALUE(y.dim() == 4 && y.size(1) >= out_kept, "y has shape ", y.sizes(),
                    "; it must have at least ", out_kept, " channels");
  check_like(y, "y", {x.size(0), y.size(1), sides[0], sides[1]}, x.scalar_type(), x);
  for (const auto& [values, name, type] :
       {std::tuple{mean, "mean", sums_of(x)}, std::tuple{invstd, "invstd", at::kDouble},
        std::tuple{scale, "scale", at::kDouble}, std::tuple{shift, "shift", sums_of(x)}})
    check_like(values, name, {y.size(1)}, type, x);
  affine = Affine{mean.contiguous(), invstd.contiguous(), scale.contiguous(), shift.contiguous()};
  affine = affine.first(out_kept);
}

}  // namespace pass_transfer
