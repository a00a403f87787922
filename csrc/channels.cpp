// x * mask over channels, and both of its gradients in one pass.
#include "kernels.h"

namespace pass_transfer {

Kernels& kernels_of(c10::DeviceType device) {
  static Kernels cpu{}, cuda{}, none{};
  return device == c10::DeviceType::CPU ? cpu : device == c10::DeviceType::CUDA ? cuda : none;
}

namespace {

Tensor mask_channels(const Tensor& x, const Tensor& mask) {
  check_channels(x, mask);
  return kernels_for(x).mask_channels(dense(x), mask);
}

std::tuple<Tensor, Tensor> mask_channels_backward(const Tensor& grad, const Tensor& x,
                                                  const Tensor& mask) {
  check_channels(x, mask);
  check_like(grad, "grad", x.sizes(), x.scalar_type(), x);
  return kernels_for(x).mask_channels_backward(grad, dense(x), mask);
}

PT_REGISTER(mask_channels, &mask_channels)
PT_REGISTER(mask_channels_backward, &mask_channels_backward)

}  // namespace

}  // namespace pass_transfer
