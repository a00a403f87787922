// The arithmetic that is left to ATen: convolutions, as matrix products where they are no more than
// that, and on deep images where they are a stem's on a GPU.
#pragma once

#include "kernels.h"
#include "space_to_depth.h"

namespace pass_transfer {

inline bool is_matrix_product(const Tensor& x, const Tensor& weight, const Window& w) {
  return w.groups == 1 && x.size(2) == 1 && x.size(3) == 1 && weight.size(2) == 1 &&
         weight.size(3) == 1 && w.padding[0] == 0 && w.padding[1] == 0;
}

// Output in x's layout.
inline Tensor convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                       const Window& w) {
  if (is_matrix_product(x, weight, w)) {
    const Tensor rows = x.flatten(1), columns = weight.flatten(1).t();
    return (bias ? at::addmm(*bias, rows, columns) : at::mm(rows, columns))
        .view({x.size(0), weight.size(0), 1, 1});
  }
  const auto format = format_of(layout_of(x));
  if (by_space_to_depth(x, weight, w)) {
    const SpaceToDepth to_depth(weight, w);
    const std::vector<int64_t> sides = check_window(x, weight, w);
    return at::convolution(kernels_for(x).space_to_depth(x, to_depth, sides[0], sides[1]),
                           to_depth.weight(weight), bias, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1)
        .contiguous(format);
  }
  return at::convolution(x, weight.contiguous(format), bias, w.stride, w.padding, w.dilation, false,
                         {0, 0}, w.groups)
      .contiguous(format);
}

// Gradient to an input (batch, channels, height, width) in x's layout, from that of the output.
inline Tensor convolve_back(const Tensor& grad, const Tensor& x, int64_t channels,
                            const Tensor& weight, const Window& w) {
  if (is_matrix_product(x, weight, w))
    return at::mm(grad.flatten(1), weight.flatten(1)).view({x.size(0), channels, 1, 1});
  const auto format = format_of(layout_of(x));
  if (by_space_to_depth(x, weight, w)) {
    const SpaceToDepth to_depth(weight, w);
    const auto rows = at::MemoryFormat::ChannelsLast;
    const Tensor image =
        at::empty({x.size(0), to_depth.channels, grad.size(2) + to_depth.taps[0] - 1,
                   grad.size(3) + to_depth.taps[1] - 1},
                  x.options(), rows);
    const Tensor inner = std::get<0>(at::convolution_backward(
        grad.contiguous(rows), image, to_depth.weight(weight), c10::nullopt, {1, 1}, {0, 0}, {1, 1},
        false, {0, 0}, 1, {true, false, false}));
    return kernels_for(x).depth_to_space(inner.contiguous(rows), to_depth, x.size(2), x.size(3),
                                         layout_of(x));
  }
  const Tensor shape = at::empty({x.size(0), channels, x.size(2), x.size(3)}, x.options(), format);
  return std::get<0>(at::convolution_backward(grad.contiguous(format), shape,
                                              weight.contiguous(format), c10::nullopt, w.stride,
                                              w.padding, w.dilation, false, {0, 0}, w.groups,
                                              {true, false, false}))
      .contiguous(format);
}

// Gradient to the weight.
inline Tensor convolve_weight(const Tensor& grad, const Tensor& x, const Tensor& weight,
                              const Window& w) {
  if (is_matrix_product(x, weight, w))
    return at::mm(grad.flatten(1).t(), x.flatten(1)).view(weight.sizes());
  const auto format = format_of(layout_of(x));
  return std::get<1>(at::convolution_backward(grad.contiguous(format), x, weight.contiguous(format),
                                              c10::nullopt, w.stride, w.padding, w.dilation, false,
                                              {0, 0}, w.groups, {false, true, false}));
}

}  // namespace pass_transfer
