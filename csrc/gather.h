// Channels of an activation, taken out and put back in their places.
// Not on a GPU: see Kernels::take_channels.
#pragma once

#include "kernels.h"

namespace pass_transfer {

// Channels of a tensor, in its own layout.
inline Tensor gather(const Tensor& x, const Tensor& index) {
  return kernels_for(x).take_channels(x, index);
}

// The inverse: zeros elsewhere. A single channel does not say what layout it is part of.
inline Tensor scatter(const Tensor& part, const Tensor& index, int64_t channels, Layout layout) {
  const Tensor numbers = at::full({channels}, -1, index.options())
                             .index_copy_(0, index, at::arange(index.numel(), index.options()));
  return kernels_for(part).take_channels(part, numbers).contiguous(format_of(layout));
}

}  // namespace pass_transfer
