// What a fused layer is given, and the checks of it.
//
// Channels come in an order: kept ones first. What follows them in the input (`dropped`) is read by
// the mask's gradient alone; what follows them in the output is computed for the next layer's.
#pragma once

#include "kernels.h"

namespace pass_transfer {

// What both directions are given.
struct FusedLayer {
  Tensor x, weight;
  OptionalTensor dropped, in_mask, in_order, out_order;
  Window window;
  bool relu;
  std::vector<int64_t> pool;  // kernel, stride and padding; empty for none

  explicit FusedLayer(const Arguments& given);

  // Refuses what does not fit; then x is dense.
  void check(int64_t out_kept, int64_t out_count);

  // Channels of x and of `dropped`.
  int64_t ins() const { return x.size(1) + (dropped ? dropped->size(1) : 0); }

  // The height and width of the convolution's outputs.
  std::vector<int64_t> sides() const { return check_window(x, weight, window); }

  // Which of the weight's inputs and outputs the first `count` are.
  Selection inputs(int64_t count) const;
  Selection outputs(int64_t count) const;

  // The pooling, refused where it cannot be fused.
  Pooling pooling(bool normed, bool added) const;
};

// What the forward pass alone is given.
struct ForwardOnly {
  OptionalTensor bias, norm_weight, norm_bias, residual, residual_dropped;
  double eps;
  int64_t out_kept, out_count;

  explicit ForwardOnly(const Arguments& given);

  // Refuses what does not fit a layer that is checked.
  void check(const FusedLayer& layer) const;
};

// What the forward pass has left for the backward pass.
struct Saved {
  Tensor out, y, places;
  Affine affine;  // undefined where nothing was normalised

  // Refuses what is not of this layer.
  Saved(const Arguments& given, const FusedLayer& layer);
};

}  // namespace pass_transfer
