// The arithmetic that is left to ATen: convolutions, as matrix products where they are no more than that.
#pragma once

#include "common.h"

#include <optional>

namespace pass_transfer {

using Maybe = std::optional<Tensor>;

struct Window {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;

  Window(c10::SymIntArrayRef s, c10::SymIntArrayRef p, c10::SymIntArrayRef d, int64_t g) : stride(plain(s)), padding(plain(p)), dilation(plain(d)), groups(g) {}

 private:
  static std::vector<int64_t> plain(c10::SymIntArrayRef values) {
    std::vector<int64_t> out;
    for (const auto& v : values) out.push_back(v.expect_int());
    return out;
  }
};

// Refuses a window that does not fit; returns the output's height and width.
inline std::vector<int64_t> check_window(const Tensor& x, const Tensor& weight, const Window& w) {
  std::vector<int64_t> out;
  for (int64_t d = 0; d < 2; ++d) {
    TORCH_CHECK_VALUE(w.stride[d] >= 1, "stride must be at least 1, not ", w.stride[d]);
    TORCH_CHECK_VALUE(w.dilation[d] >= 1, "dilation must be at least 1, not ", w.dilation[d]);
    TORCH_CHECK_VALUE(w.padding[d] >= 0, "padding must not be negative, it is ", w.padding[d]);
    const int64_t span = w.dilation[d] * (weight.size(2 + d) - 1) + 1, room = x.size(2 + d) + 2 * w.padding[d];
    TORCH_CHECK_VALUE(weight.size(2 + d) >= 1 && room >= span, "weight is larger than the padded x");
    out.push_back((room - span) / w.stride[d] + 1);
  }
  return out;
}

inline void check_pair(const Tensor& x, const Tensor& weight) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x has shape ", x.sizes(), "; it must be (batch, channels, height, width)");
  TORCH_CHECK_VALUE(weight.dim() == 4, "weight has shape ", weight.sizes(), "; it must be (out, in / groups, height, width)");
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()) && weight.scalar_type() == x.scalar_type(), "x is ", x.scalar_type(), " and weight ",
                   weight.scalar_type(), "; they must be of one floating dtype");
  TORCH_CHECK_VALUE(weight.device() == x.device(), "weight is on ", weight.device(), ", x on ", x.device());
}

inline at::MemoryFormat format_of(Layout layout) { return layout == Layout::Rows ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous; }

inline bool is_matrix_product(const Tensor& x, const Tensor& weight, const Window& w) {
  return w.groups == 1 && x.size(2) == 1 && x.size(3) == 1 && weight.size(2) == 1 && weight.size(3) == 1 && w.padding[0] == 0 && w.padding[1] == 0;
}

// Output in x's layout.
inline Tensor convolve(const Tensor& x, const Tensor& weight, const Maybe& bias, const Window& w) {
  if (is_matrix_product(x, weight, w)) {
    const Tensor rows = x.flatten(1), columns = weight.flatten(1).t();
    return (bias ? at::addmm(*bias, rows, columns) : at::mm(rows, columns)).view({x.size(0), weight.size(0), 1, 1});
  }
  const auto format = format_of(layout_of(x));
  return at::convolution(x, weight.contiguous(format), bias, w.stride, w.padding, w.dilation, false, {0, 0}, w.groups).contiguous(format);
}

// Gradient to an input (batch, channels, height, width) in x's layout, from that of the output.
inline Tensor convolve_back(const Tensor& grad, const Tensor& x, int64_t channels, const Tensor& weight, const Window& w) {
  if (is_matrix_product(x, weight, w)) return at::mm(grad.flatten(1), weight.flatten(1)).view({x.size(0), channels, 1, 1});
  const auto format = format_of(layout_of(x));
  const Tensor shape = at::empty({x.size(0), channels, x.size(2), x.size(3)}, x.options(), format);
  return std::get<0>(at::convolution_backward(grad.contiguous(format), shape, weight.contiguous(format), c10::nullopt, w.stride, w.padding, w.dilation,
                                              false, {0, 0}, w.groups, {true, false, false})).contiguous(format);
}

// Gradient to the weight.
inline Tensor convolve_weight(const Tensor& grad, const Tensor& x, const Tensor& weight, const Window& w) {
  if (is_matrix_product(x, weight, w)) return at::mm(grad.flatten(1).t(), x.flatten(1)).view(weight.sizes());
  const auto format = format_of(layout_of(x));
  return std::get<1>(at::convolution_backward(grad.contiguous(format), x, weight.contiguous(format), c10::nullopt, w.stride, w.padding, w.dilation, false,
                                              {0, 0}, w.groups, {false, true, false}));
}

}  // namespace pass_transfer
