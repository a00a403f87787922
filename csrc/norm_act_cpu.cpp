// CPU kernels of normalisation, residual and ReLU; each tensor is read as few times as the mathematics allows.
#include "layout_cpu.h"

namespace pass_transfer {

namespace {

// What an activation has to exceed for its gradient to be let through.
template <typename A>
inline A bound(bool relu) {
  return relu ? A(0) : -std::numeric_limits<A>::infinity();
}

template <typename T, typename A>
PT_MULTIVERSION void activate(const T* __restrict y, const T* __restrict residual, T* __restrict out, A mean, A scale, A shift, bool relu, int64_t count) {
  const A least = bound<A>(relu);
  if (residual) {
    for (int64_t i = 0; i < count; ++i) {
      const A value = (static_cast<A>(y[i]) - mean) * scale + shift + static_cast<A>(residual[i]);
      out[i] = static_cast<T>(value < least ? least : value);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const A value = (static_cast<A>(y[i]) - mean) * scale + shift;
      out[i] = static_cast<T>(value < least ? least : value);
    }
  }
}

template <typename T, typename A>
PT_MULTIVERSION void activate_rows(const T* __restrict y, int64_t y_row, const T* __restrict residual, int64_t r_row, T* __restrict out, int64_t o_row,
                                   const A* __restrict mean, const A* __restrict scale, const A* __restrict shift, bool relu, int64_t rows, int64_t channels) {
  const A least = bound<A>(relu);
  for (int64_t r = 0; r < rows; ++r, y += y_row, out += o_row) {
    if (residual) {
      for (int64_t c = 0; c < channels; ++c) {
        const A value = (static_cast<A>(y[c]) - mean[c]) * scale[c] + shift[c] + static_cast<A>(residual[c]);
        out[c] = static_cast<T>(value < least ? least : value);
      }
      residual += r_row;
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const A value = (static_cast<A>(y[c]) - mean[c]) * scale[c] + shift[c];
        out[c] = static_cast<T>(value < least ? least : value);
      }
    }
  }
}

// Both values are read whatever comes of it, so that a loop over them needs no branch; a NaN lets through, as in torch.
template <typename T, typename A>
inline A let_through(const T& grad, const T& a, A least) {
  const A value = static_cast<A>(grad);
  return static_cast<A>(a) <= least ? A(0) : value;
}

// Sums, in double, of g and of g * (y - mean) over a run, where g is the gradient that ReLU lets through; `passed` gets g if it is there.
template <typename T, typename A>
PT_MULTIVERSION void sum_run(const T* __restrict grad, const T* __restrict a, const T* __restrict y, T* __restrict passed, A mean, bool relu, int64_t count,
                             double* s1, double* s2) {
  const A least = bound<A>(relu);
  double first[LANES] = {}, second[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) {
      const A g = let_through<T, A>(grad[i + j], a[i + j], least);
      first[j] += g;
      second[j] += static_cast<double>(g) * (static_cast<A>(y[i + j]) - mean);
      if (passed) passed[i + j] = static_cast<T>(g);
    }
  double one = 0, two = 0;
  for (; i < count; ++i) {
    const A g = let_through<T, A>(grad[i], a[i], least);
    one += g;
    two += static_cast<double>(g) * (static_cast<A>(y[i]) - mean);
    if (passed) passed[i] = static_cast<T>(g);
  }
  for (int64_t j = 0; j < LANES; ++j) {
    one += first[j];
    two += second[j];
  }
  *s1 = one;
  *s2 = two;
}

// The same for every channel, STEP rows at a time.
template <typename T, typename A, bool PASSES, int64_t STEP>
PT_MULTIVERSION void sum_rows(const T* __restrict grad, int64_t g_row, const T* __restrict a, int64_t a_row, const T* __restrict y, int64_t y_row,
                              T* __restrict passed, int64_t p_row, const A* __restrict mean, bool relu, int64_t rows, int64_t channels, double* __restrict s1,
                              double* __restrict s2) {
  const A least = bound<A>(relu);
  for (int64_t r = 0; r < rows; r += STEP, grad += STEP * g_row, a += STEP * a_row, y += STEP * y_row) {
    for (int64_t c = 0; c < channels; ++c) {
      double one = s1[c], two = s2[c];
      for (int64_t k = 0; k < STEP; ++k) {
        const A g = let_through<T, A>(grad[k * g_row + c], a[k * a_row + c], least);
        one += g;
        two += static_cast<double>(g) * (static_cast<A>(y[k * y_row + c]) - mean[c]);
        if constexpr (PASSES) passed[k * p_row + c] = static_cast<T>(g);
      }
      s1[c] = one;
      s2[c] = two;
    }
    if constexpr (PASSES) passed += STEP * p_row;
  }
}

// What terms that cancel over the batch are in, but where T rounds what comes of them more coarsely than float32 anyway.
template <typename T>
using Terms = std::conditional_t<(sizeof(T) < sizeof(float)), float, double>;

// scale * (g - s1 - (y - mean) * slope): s1 is g's mean, slope that of g * (y - mean) by the variance.
template <typename T, typename A, typename W = Terms<T>>
PT_MULTIVERSION void spread(const T* __restrict grad, const T* __restrict a, const T* __restrict y, T* __restrict out, A mean, W scale, W s1, W slope, bool relu,
                            int64_t count) {
  const A least = bound<A>(relu);
  for (int64_t i = 0; i < count; ++i) {
    const A g = let_through<T, A>(grad[i], a[i], least);
    out[i] = static_cast<T>(scale * (g - s1 - (static_cast<A>(y[i]) - mean) * slope));
  }
}

template <typename T, typename A, typename W = Terms<T>>
PT_MULTIVERSION void spread_rows(const T* __restrict grad, int64_t g_row, const T* __restrict a, int64_t a_row, const T* __restrict y, int64_t y_row,
                                 T* __restrict out, int64_t o_row, const A* __restrict mean, const W* __restrict scale, const W* __restrict s1,
                                 const W* __restrict slope, bool relu, int64_t rows, int64_t channels) {
  const A least = bound<A>(relu);
  for (int64_t r = 0; r < rows; ++r, grad += g_row, a += a_row, y += y_row, out += o_row)
    for (int64_t c = 0; c < channels; ++c) {
      const A g = let_through<T, A>(grad[c], a[c], least);
      out[c] = static_cast<T>(scale[c] * (g - s1[c] - (static_cast<A>(y[c]) - mean[c]) * slope[c]));
    }
}

// What ReLU lets through: no normalisation.
template <typename T, typename A>
PT_MULTIVERSION void pass_through(const T* __restrict grad, const T* __restrict a, T* __restrict out, bool relu, int64_t count) {
  const A least = bound<A>(relu);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(let_through<T, A>(grad[i], a[i], least));
}

Tensor norm_act(const Tensor& y_in, int64_t first, int64_t count, const Affine& affine, const Maybe& residual_in, bool relu) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout), residual = residual_in ? sliceable(*residual_in, e.layout) : Tensor();
  Tensor out = empty_as(e, y, count);
  if (out.numel() == 0) return out;
  const Tensor scales = affine.scale.to(sums_of(y));
  PT_DISPATCH(y.scalar_type(), "norm_act", [&] {
    using A = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(y, first), r = view_of<scalar_t>(residual), o = view_of<scalar_t>(out);
    const A *mean = affine.mean.const_data_ptr<A>() + first, *scale = scales.const_data_ptr<A>() + first, *shift = affine.shift.const_data_ptr<A>() + first;
    for_every(e, count,
              [&](int64_t n, int64_t c) { activate(v.run(n, c), r.run(n, c), o.run(n, c), mean[c], scale[c], shift[c], relu, e.positions); },
              [&](int64_t from, int64_t rows) {
                activate_rows(v.from_row(from), v.row, r.from_row(from), r.row, o.from_row(from), o.row, mean, scale, shift, relu, rows, count);
              });
  });
  return out;
}

// Everything that the gradient reads and writes; y and mean may be missing, and `passed` may.
template <typename T, typename A>
struct Gradient {
  View<T> grad, a, y, out, passed;
  const A* mean;
  const double *invstd, *scale;
  bool relu;
};

struct Sum {
  double one = 0, two = 0;  // of g, and of g * (y - mean)
  void join(const Sum& other) {
    one += other.one;
    two += other.two;
  }
};

template <typename T, typename A>
void through(const Extent& e, const Gradient<T, A>& g) {
  Extent whole = e;  // channels do not matter here: a sample's runs are one
  if (e.layout == Layout::Planes) whole = {e.batch, 1, e.channels * e.positions, e.layout, e.format};
  for_every(whole, whole.channels,
            [&](int64_t n, int64_t) { pass_through<T, A>(g.grad.run(n, 0), g.a.run(n, 0), g.out.run(n, 0), g.relu, whole.positions); },
            [&](int64_t first, int64_t rows) {
              for (int64_t r = first; r < first + rows; ++r) pass_through<T, A>(g.grad.from_row(r), g.a.from_row(r), g.out.from_row(r), g.relu, e.channels);
            });
}

// Channel c's share of both sums in every element of its gradient.
template <typename T, typename A>
std::pair<double, double> shift_and_slope(const Extent& e, const Gradient<T, A>& g, const Sum& sum, int64_t c) {
  const double share = 1.0 / static_cast<double>(e.rows());
  return {sum.one * share, sum.two * share * g.invstd[c] * g.invstd[c]};
}

// One channel after the other, while it is in the cache.
template <typename T, typename A>
void normalised_planes(const Extent& e, const Gradient<T, A>& g) {
  for_channels(e, [&](int64_t c) {
    Sum sum;
    for (int64_t n = 0; n < e.batch; ++n) {
      double one, two;
      sum_run(g.grad.run(n, c), g.a.run(n, c), g.y.run(n, c), g.passed.run(n, c), g.mean[c], g.relu, e.positions, &one, &two);
      sum.join({one, two});
    }
    const auto [shift, slope] = shift_and_slope(e, g, sum, c);
    for (int64_t n = 0; n < e.batch; ++n)
      spread<T, A>(g.grad.run(n, c), g.a.run(n, c), g.y.run(n, c), g.out.run(n, c), g.mean[c], g.scale[c], shift, slope, g.relu, e.positions);
  });
}

template <typename T, typename A>
void normalised_rows(const Extent& e, const Gradient<T, A>& g) {
  const std::vector<Sum> sums = reduce_rows<Sum>(e, [&](int64_t first, int64_t rows, Sum* to) {
    std::vector<double> one(e.channels), two(e.channels);
    auto add = [&](auto sum, int64_t from, int64_t count) {
      sum(g.grad.from_row(from), g.grad.row, g.a.from_row(from), g.a.row, g.y.from_row(from), g.y.row, g.passed.from_row(from), g.passed.row, g.mean, g.relu,
          count, e.channels, one.data(), two.data());
    };
    const int64_t most = rows / UNROLL * UNROLL;
    add(g.passed.data ? sum_rows<T, A, true, UNROLL> : sum_rows<T, A, false, UNROLL>, first, most);
    add(g.passed.data ? sum_rows<T, A, true, 1> : sum_rows<T, A, false, 1>, first + most, rows - most);
    for (int64_t c = 0; c < e.channels; ++c) to[c] = {one[c], two[c]};
  });
  std::vector<Terms<T>> scale(g.scale, g.scale + e.channels), shift(e.channels), slope(e.channels);
  for (int64_t c = 0; c < e.channels; ++c) std::tie(shift[c], slope[c]) = shift_and_slope(e, g, sums[c], c);
  at::parallel_for(0, e.rows(), grain(e.channels), [&](int64_t from, int64_t to) {
    spread_rows<T, A>(g.grad.from_row(from), g.grad.row, g.a.from_row(from), g.a.row, g.y.from_row(from), g.y.row, g.out.from_row(from), g.out.row, g.mean,
                scale.data(), shift.data(), slope.data(), g.relu, to - from, e.channels);
  });
}

std::tuple<Tensor, Tensor> norm_act_backward(const Tensor& grad_in, const Tensor& a_in, const Tensor& y_in, const Affine& affine, bool relu, bool /*added*/,
                                             bool wants_residual) {
  const Extent e = extent_of(a_in);
  const bool normed = affine.defined();
  const Tensor a = sliceable(a_in, e.layout), grad = sliceable(grad_in, e.layout), y = normed ? sliceable(y_in, e.layout) : Tensor();
  Tensor out = empty_as(e, a, e.channels);
  if (out.numel() == 0) return {out, wants_residual ? at::zeros_like(out) : Tensor()};
  const Tensor passed = wants_residual && normed ? empty_as(e, a, e.channels) : Tensor();
  PT_DISPATCH(a.scalar_type(), "norm_act_backward", [&] {
    using A = typename Sums<scalar_t>::type;
    auto values = [&](const Tensor& t) { return normed ? t.const_data_ptr<double>() : nullptr; };
    const Gradient<scalar_t, A> g{view_of<scalar_t>(grad), view_of<scalar_t>(a), view_of<scalar_t>(y), view_of<scalar_t>(out), view_of<scalar_t>(passed),
                                  normed ? affine.mean.const_data_ptr<A>() : nullptr, values(affine.invstd), values(affine.scale), relu};
    if (!normed) through(e, g);
    else if (e.layout == Layout::Rows) normalised_rows(e, g);
    else normalised_planes(e, g);
  });
  return {out, wants_residual ? (normed ? passed : out) : Tensor()};
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).norm_act = &norm_act;
  kernels_of(c10::DeviceType::CPU).norm_act_backward = &norm_act_backward;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
