// What a convolution is given: its window, checks of it, and the layout of what it makes.
#pragma once

#include "arguments.h"

#include <limits>

namespace pass_transfer {

// Two values that fit into 32 bits: a convolution's stride, padding or dilation.
inline std::vector<int64_t> pair_of(const Arguments& given, const char* name) {
  const std::vector<int64_t> values = given.integers(name);
  TORCH_CHECK_VALUE(values.size() == 2, name, " has ", values.size(), " values; it must have two");
  for (int64_t value : values)
    TORCH_CHECK_VALUE(value <= std::numeric_limits<int32_t>::max(), name, " is ", value,
                      "; it must be less than 2^31");
  return values;
}

struct Window {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;

  explicit Window(const Arguments& given, int64_t groups = 1)
      : stride(pair_of(given, "stride")),
        padding(pair_of(given, "padding")),
        dilation(pair_of(given, "dilation")),
        groups(groups) {}
};

// Refuses a window that does not fit; returns the output's height and width.
inline std::vector<int64_t> check_window(const Tensor& x, const Tensor& weight, const Window& w) {
  std::vector<int64_t> sides;
  for (int64_t d = 0; d < 2; ++d) {
    TORCH_CHECK_VALUE(w.stride[d] >= 1, "stride must be at least 1, not ", w.stride[d]);
    TORCH_CHECK_VALUE(w.dilation[d] >= 1, "dilation must be at least 1, not ", w.dilation[d]);
    TORCH_CHECK_VALUE(w.padding[d] >= 0, "padding must not be negative, it is ", w.padding[d]);
    const int64_t span = w.dilation[d] * (weight.size(2 + d) - 1) + 1;
    const int64_t padded = x.size(2 + d) + 2 * w.padding[d];
    TORCH_CHECK_VALUE(x.size(2 + d) >= 1 && weight.size(2 + d) >= 1 && padded >= span,
                      "weight is larger than the padded x, or x has no positions");
    sides.push_back((padded - span) / w.stride[d] + 1);
  }
  return sides;
}

inline void check_shapes(const Tensor& x, const Tensor& weight) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x has shape ", x.sizes(),
                    "; it must be (batch, channels, height, width)");
  TORCH_CHECK_VALUE(weight.dim() == 4, "weight has shape ", weight.sizes(),
                    "; it must be (out, in / groups, height, width)");
  TORCH_CHECK_VALUE(weight.size(0) >= 1 && weight.size(1) >= 1, "weight has shape ", weight.sizes(),
                    "; it must have outputs and inputs");
  TORCH_CHECK_VALUE(weight.device() == x.device(), "weight is on ", weight.device(), ", x on ",
                    x.device());
}

inline void check_pair(const Tensor& x, const Tensor& weight) {
  check_shapes(x, weight);
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()) && weight.scalar_type() == x.scalar_type(),
                   "x is ", x.scalar_type(), " and weight ", weight.scalar_type(),
                   "; they must be of one floating dtype");
}

inline at::MemoryFormat format_of(Layout layout) {
  return layout == Layout::Rows ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

}  // namespace pass_transfer
