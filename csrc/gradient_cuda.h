// The gradient through normalisation, in two walks:
// sums over a channel, and what they leave of every element.
#pragma once

#include "walk_cuda.h"

#include <limits>

namespace pass_transfer {
namespace walk {

// What an activation has to exceed for its gradient to be let through.
template <typename A>
A bound(bool relu) {
  return relu ? A(0) : -std::numeric_limits<A>::infinity();
}

// Where the gradient's way through ReLU is read: nowhere, as what arrives has gone through it; in
// the activations; or in the values they were made of.
enum class Gate { Open, Activation, Value };

// Sums of g and of g * (y - mean), g being the gradient that ReLU lets through.
// PASSES: g is written down.
template <typename T, Gate GATE, bool PASSES>
struct GradientSums {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = typename Compute<T>::Sum;
  static constexpr int READS = GATE == Gate::Activation ? 3 : 2, WRITES = PASSES;
  static constexpr bool SUMS = true;
  View<T> reads[READS], writes[1];  // gradient, y, activations
  const A *mean, *shift;
  const double* scale;
  A least;
  struct Of {
    A mean, scale, shift;
  };
  __device__ Of of(int64_t c) const { return {mean[c], static_cast<A>(scale[c]), shift[c]}; }
  __device__ bool skips(const Of&) const { return false; }
  __device__ void operator()(const Of& of, const A* in, A* out, Sum& one, Sum& two) const {
    const A d = in[1] - of.mean;
    A g = in[0];
    if constexpr (GATE == Gate::Activation) g = in[2] <= least ? A(0) : g;
    if constexpr (GATE == Gate::Value) g = d * of.scale + of.shift <= least ? A(0) : g;
    one += static_cast<Sum>(g);
    two += static_cast<Sum>(g) * static_cast<Sum>(d);
    if constexpr (PASSES) out[0] = g;
  }
};

struct Slopes {
  double *first, *second, count;
  const double* invstd;
  __device__ void operator()(int64_t c, double one, double two) const {
    first[c] = one / count;
    second[c] = two / count * invstd[c] * invstd[c];
  }
};

// The gradient to y: scale * (g - mean of g - (y - mean) * slope). In the type of sums: over the
// batch these terms cancel.
template <typename T, Gate GATE>
struct Normalised {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = typename Compute<T>::Sum;
  static constexpr int READS = GATE == Gate::Activation ? 3 : 2, WRITES = 1;
  static constexpr bool SUMS = false;
  View<T> reads[READS], writes[1];
  const A *mean, *shift;
  const double *scale, *first, *second;
  A least;
  struct Of {
    A mean, shift;
    Sum scale, first, second;
  };
  __device__ Of of(int64_t c) const {
    return {mean[c], shift[c], static_cast<Sum>(scale[c]), static_cast<Sum>(first[c]),
            static_cast<Sum>(second[c])};
  }
  __device__ bool skips(const Of&) const { return false; }
  __device__ void operator()(const Of& of, const A* in, A* out, Sum&, Sum&) const {
    const A d = in[1] - of.mean;
    A g = in[0];
    if constexpr (GATE == Gate::Activation) g = in[2] <= least ? A(0) : g;
    if constexpr (GATE == Gate::Value)
      g = d * static_cast<A>(of.scale) + of.shift <= least ? A(0) : g;
    out[0] = static_cast<A>(of.scale *
                            (static_cast<Sum>(g) - of.first - static_cast<Sum>(d) * of.second));
  }
};

}  // namespace walk
}  // namespace pass_transfer
