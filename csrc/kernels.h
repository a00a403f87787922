// What each kind of device has to bring along; the operators above it are written once.
#pragma once

#include "arithmetic.h"

namespace pass_transfer {

// How a channel of y becomes an activation: act((y - mean) * scale + shift).
struct Affine {
  Tensor mean, scale, shift;  // (C,), in the type that sums are kept in
};

// Which of a weight's outputs and inputs are taken, in which order; undefined: the first ones.
struct Selection {
  Tensor index;
  int64_t count;
};

struct Kernels {
  // x * mask over channels, and (mask * grad, <x_c, grad_c> for every channel).
  Tensor (*mask_channels)(const Tensor& x, const Tensor& mask);
  std::tuple<Tensor, Tensor> (*mask_channels_backward)(const Tensor& grad, const Tensor& x, const Tensor& mask);

  // Mean and 1 / sqrt(variance + eps) of every channel of y (B, C, H, W): in the type that sums are kept in, and in float64,
  // of which a gradient that cancels over the batch keeps what float32 would round away.
  std::tuple<Tensor, Tensor> (*batch_statistics)(const Tensor& y, double eps);

  // Activations of y's channels [first, first + count), plus a residual (B, count, H, W).
  Tensor (*norm_act)(const Tensor& y, int64_t first, int64_t count, const Affine& affine, const Maybe& residual, bool relu);

  // Gradients to y's first channels and to the residual, from that of their activations a (B, count, H, W).
  // Without normalisation, mean, invstd and scale (both float64) are undefined and y is not read.
  std::tuple<Tensor, Tensor> (*norm_act_backward)(const Tensor& grad, const Tensor& a, const Tensor& y, const Tensor& mean, const Tensor& invstd,
                                                  const Tensor& scale, bool relu, bool wants_residual);

  // <x_c, g_c> for every channel of x, with g's channels from `first` on.
  Tensor (*channel_dots)(const Tensor& x, const Tensor& g, int64_t first);

  // Outputs and inputs of a weight (O, I, kh, kw), each times its input's factor where `mask` (float32) is defined.
  Tensor (*gather_weight)(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& mask, Layout layout);

  // Channels of x by number (int64), in x's layout; zeros where the number is -1. Not on a GPU, where the host does not know how many are kept.
  Tensor (*take_channels)(const Tensor& x, const Tensor& numbers);
};

// The kernels of a device type; each device's files set its own when the library is loaded.
Kernels& kernels_of(c10::DeviceType device);

inline const Kernels& kernels_for(const Tensor& x) {
  const Kernels& found = kernels_of(x.device().type());
  TORCH_CHECK_VALUE(found.norm_act != nullptr, "x is on ", x.device(), ", for which these operators are not built");
  return found;
}

// The type that sums of a dtype are kept in.
template <typename T> struct Sums { using type = float; };
template <> struct Sums<double> { using type = double; };
inline at::ScalarType sums_of(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

inline void check_channels(const Tensor& x, const Tensor& mask) {
  TORCH_CHECK_VALUE(x.dim() >= 2, "x has shape ", x.sizes(), "; it must be (batch, channels, ...)");
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "x is ", x.scalar_type(), "; it must be floating");
  check_mask(mask, x, x.size(1), "mask");
}

inline void check_gradient(const Tensor& grad, const Tensor& x) {
  TORCH_CHECK_VALUE(grad.sizes() == x.sizes(), "grad has shape ", grad.sizes(), ", x ", x.sizes());
  TORCH_CHECK_TYPE(grad.scalar_type() == x.scalar_type(), "grad is ", grad.scalar_type(), ", x ", x.scalar_type());
  TORCH_CHECK_VALUE(grad.device() == x.device(), "grad is on ", grad.device(), ", x on ", x.device());
}

#define PT_DISPATCH(type, name, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, type, name, __VA_ARGS__)

// A function that runs on tensors of every device, registered for those that are built.
#ifdef PASS_TRANSFER_CUDA
#define PT_REGISTER(name, function)                                                           \
  TORCH_LIBRARY_IMPL(pass_transfer, CPU, name##_on_cpu) { name##_on_cpu.impl(#name, function); } \
  TORCH_LIBRARY_IMPL(pass_transfer, CUDA, name##_on_cuda) { name##_on_cuda.impl(#name, function); }
#else
#define PT_REGISTER(name, function) \
  TORCH_LIBRARY_IMPL(pass_transfer, CPU, name##_on_cpu) { name##_on_cpu.impl(#name, function); }
#endif

}  // namespace pass_transfer
