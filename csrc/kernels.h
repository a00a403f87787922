// What each kind of device has to bring along; the operators above it are written once.
#pragma once

#include "arithmetic.h"
#include "space_to_depth.h"

namespace pass_transfer {

// Which of a weight's outputs and inputs are taken, in which order; undefined: the first ones.
struct Selection {
  Tensor index;
  int64_t count;

  Selection first(int64_t some) const {
    return {index.defined() ? index.narrow(0, 0, some) : Tensor(), some};
  }
  Tensor of(const Tensor& values) const {
    return index.defined() ? values.index_select(0, index)
                           : values.narrow(0, 0, count).contiguous();
  }
};

// How a channel of y becomes an activation: act((y - mean) * scale + shift). Each (C,): mean and
// shift in the type that sums are kept in, invstd (1 / the standard deviation) and scale in
// float64, of which a gradient that cancels over the batch keeps what float32 would round away.
struct Affine {
  Tensor mean, invstd, scale, shift;

  bool defined() const { return mean.defined(); }
  Affine first(int64_t count) const {
    auto part = [&](const Tensor& t) { return t.narrow(0, 0, count); };
    return defined() ? Affine{part(mean), part(invstd), part(scale), part(shift)} : Affine{};
  }
};

// A square maximum pooling; none where the kernel is 0.
struct Pooling {
  int64_t kernel = 0, stride = 1, padding = 0;

  explicit operator bool() const { return kernel > 0; }
  int64_t side(int64_t of) const { return (of + 2 * padding - kernel) / stride + 1; }
};

struct Kernels {
  // x * mask over channels, and (mask * grad, <x_c, grad_c> for every channel).
  Tensor (*mask_channels)(const Tensor& x, const Tensor& mask);
  std::tuple<Tensor, Tensor> (*mask_channels_backward)(const Tensor& grad, const Tensor& x,
                                                       const Tensor& mask);

  // Normalisation of y (B, C, H, W) by its own mean and variance, channel i then scaled and shifted
  // by element which[i] of weight and bias.
  Affine (*normalisation)(const Tensor& y, double eps, const Tensor& weight, const Tensor& bias,
                          const Selection& which);

  // Activations of y's channels [first, first + count), plus a residual (B, count, H, W).
  Tensor (*norm_act)(const Tensor& y, int64_t first, int64_t count, const Affine& affine,
                     const OptionalTensor& residual, bool relu);

  // Gradients to y's first channels and to the residual, from that of their activations out (B,
  // count, H, W). Without normalisation `affine` is undefined and y is not read. `added`: whether
  // there was a residual, without which y says as well as out what ReLU let through.
  std::tuple<Tensor, Tensor> (*norm_act_backward)(const Tensor& grad, const Tensor& out,
                                                  const Tensor& y, const Affine& affine, bool relu,
                                                  bool added, bool wants_residual);

  // The same with a maximum pooling behind it, no residual, and for the gradient which element of
  // its window each one is (uint8; 255 where ReLU lets nothing through), if `places` are wanted.
  // Only on a GPU: elsewhere pooling follows on its own.
  std::tuple<Tensor, Tensor> (*norm_act_pool)(const Tensor& y, int64_t first, int64_t count,
                                              const Affine& affine, bool relu, const Pooling& pool,
                                              bool places);
  Tensor (*norm_act_pool_backward)(const Tensor& grad, const Tensor& places, const Tensor& y,
                                   const Affine& affine, const Pooling& pool);

  // A mask's gradient, from that of the masked channels: <x_c, g_c>, then <dropped_c, g_c> with g's
  // channels after x's (zeros where g has no more). g's first channels are multiplied by the mask
  // in place, if that is asked for.
  Tensor (*mask_gradient)(const Tensor& x, const OptionalTensor& dropped, const Tensor& mask,
                          Tensor& g, bool masks);

  // Outputs and inputs of a weight (O, I, kh, kw) in another dtype, each times its input's factor
  // where `mask` (float32) is defined.
  Tensor (*gather_weight)(const Tensor& weight, at::ScalarType type, const Selection& outs,
                          const Selection& ins, const Tensor& mask, Layout layout);

  // An image (B, C, H, W) rearranged for an output of this height and width, and back: on a GPU, in
  // 16-bit types (space_to_depth.h).
  Tensor (*space_to_depth)(const Tensor& x, const SpaceToDepth& to_depth, int64_t height,
                           int64_t width);
  Tensor (*depth_to_space)(const Tensor& deep, const SpaceToDepth& to_depth, int64_t height,
                           int64_t width, Layout layout);

  // Channels of x by number (int64), in x's layout; zeros where the number is -1. Not on a GPU,
  // where the host does not know how many are kept.
  Tensor (*take_channels)(const Tensor& x, const Tensor& numbers);
};

// The kernels of a device type; each device's files set its own when the library is loaded.
Kernels& kernels_of(c10::DeviceType device);

inline const Kernels& kernels_for(const Tensor& x) {
  const Kernels& found = kernels_of(x.device().type());
  TORCH_CHECK_VALUE(found.norm_act != nullptr, "x is on ", x.device(),
                    ", for which these operators are not built");
  return found;
}

// The type that sums of a dtype are kept in.
template <typename T>
struct Sums {
  using type = float;
};
template <>
struct Sums<double> {
  using type = double;
};
inline at::ScalarType sums_of(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline void check_channels(const Tensor& x, const Tensor& mask) {
  TORCH_CHECK_VALUE(x.dim() >= 2, "x has shape ", x.sizes(), "; it must be (batch, channels, ...)");
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "x is ", x.scalar_type(),
                   "; it must be floating");
  check_vector(mask, x, x.size(1), "mask");
}

#define PT_DISPATCH(type, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, type, name, __VA_ARGS__)

// A function that runs on tensors of every device, registered for those that are built.
#define PT_REGISTER_ON(DEVICE, name, function)                    \
  TORCH_LIBRARY_IMPL(pass_transfer, DEVICE, name##_on_##DEVICE) { \
    name##_on_##DEVICE.impl(#name, function);                     \
  }
#ifdef PASS_TRANSFER_CUDA
#define PT_REGISTER(name, function)   \
  PT_REGISTER_ON(CPU, name, function) \
  PT_REGISTER_ON(CUDA, name, function)
#else
#define PT_REGISTER(name, function) PT_REGISTER_ON(CPU, name, function)
#endif
// The same for a function of Arguments that returns Results.
#define PT_REGISTER_BOXED(name) \
  PT_REGISTER(name, torch::CppFunction::makeFromBoxedFunction<&boxed<name>>())

}  // namespace pass_transfer
