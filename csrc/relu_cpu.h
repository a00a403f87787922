// ReLU and its gradient, as the CPU's kernels of activations have them in their loops.
#pragma once

#include <limits>

namespace pass_transfer {

// What an activation has to exceed for its gradient to be let through.
template <typename A>
inline A bound(bool relu) {
  return relu ? A(0) : -std::numeric_limits<A>::infinity();
}

// Both values are read whatever comes of it, so that a loop over them needs no branch.
// A NaN lets through, as in torch.
template <typename T, typename A>
inline A let_through(const T& grad, const T& out, A least) {
  const A value = static_cast<A>(grad);
  return static_cast<A>(out) <= least ? A(0) : value;
}

}  // namespace pass_transfer
