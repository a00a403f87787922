// CPU kernels of the gradients through normalisation, residual and ReLU; each tensor is read as few
// times as the mathematics allows.
#include "layout_cpu.h"
#include "relu_cpu.h"

namespace pass_transfer {

namespace {

struct Sum {
  double one = 0, two = 0;  // of g, and of g * (y - mean)
  void join(const Sum& other) {
    one += other.one;
    two += other.two;
  }
};

// Adds a run to the sum, in double, where g is the gradient that ReLU lets through.
// `passed` gets g if it is there.
template <typename T, typename A>
PT_MULTIVERSION void sum_run(const T* __restrict grad, const T* __restrict out,
                             const T* __restrict y, T* __restrict passed, A mean, bool relu,
                             int64_t count, Sum* sum) {
  const A least = bound<A>(relu);
  double first[LANES] = {}, second[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) {
      const A g = let_through<T, A>(grad[i + j], out[i + j], least);
      first[j] += g;
      second[j] += static_cast<double>(g) * (static_cast<A>(y[i + j]) - mean);
      if (passed) passed[i + j] = static_cast<T>(g);
    }
  double one = 0, two = 0;
  for (; i < count; ++i) {
    const A g = let_through<T, A>(grad[i], out[i], least);
    one += g;
    two += static_cast<double>(g) * (static_cast<A>(y[i]) - mean);
    if (passed) passed[i] = static_cast<T>(g);
  }
  for (int64_t j = 0; j < LANES; ++j) {
    one += first[j];
    two += second[j];
  }
  sum->join({one, two});
}

// What rows of the gradient are made from.
template <typename T, typename A>
struct Read {
  Rows<T> grad, out, y;
  const A* mean;
  bool relu;
};

// The sums of every channel, (C,) each, STEP rows at a time; `passed` gets g if PASSES.
template <typename T, typename A, bool PASSES, int64_t STEP>
PT_MULTIVERSION void sum_rows(const Read<T, A>& read, T* __restrict passed, int64_t passed_step,
                              Block block, double* __restrict s1, double* __restrict s2) {
  const T* __restrict grad = read.grad.data;
  const T* __restrict out = read.out.data;
  const T* __restrict y = read.y.data;
  const A* __restrict mean = read.mean;
  const int64_t g_step = read.grad.step, o_step = read.out.step, y_step = read.y.step;
  const int64_t channels = block.channels;
  const A least = bound<A>(read.relu);
  for (int64_t r = 0; r < block.rows; r += STEP) {
    for (int64_t c = 0; c < channels; ++c) {
      double one = s1[c], two = s2[c];
      for (int64_t k = 0; k < STEP; ++k) {
        const A g = let_through<T, A>(grad[k * g_step + c], out[k * o_step + c], least);
        one += g;
        two += static_cast<double>(g) * (static_cast<A>(y[k * y_step + c]) - mean[c]);
        if constexpr (PASSES) passed[k * passed_step + c] = static_cast<T>(g);
      }
      s1[c] = one;
      s2[c] = two;
    }
    grad += STEP * g_step;
    out += STEP * o_step;
    y += STEP * y_step;
    if constexpr (PASSES) passed += STEP * passed_step;
  }
}

// A channel's part in its gradient, scale * (g - shift - (y - mean) * slope): shift is g's mean,
// slope that of g * (y - mean) by the variance.
struct Slope {
  double scale, shift, slope;
};

template <typename T, typename A>
PT_MULTIVERSION void spread(const T* __restrict grad, const T* __restrict out,
                            const T* __restrict y, T* __restrict to, A mean, Slope of, bool relu,
                            int64_t count) {
  const A least = bound<A>(relu);
  const double scale = of.scale, shift = of.shift, slope = of.slope;
  for (int64_t i = 0; i < count; ++i) {
    const A g = let_through<T, A>(grad[i], out[i], least);
    to[i] = static_cast<T>(scale * (g - shift - (static_cast<A>(y[i]) - mean) * slope));
  }
}

// What terms that cancel over the batch are in, but where T rounds what comes of them more coarsely
// than float32 anyway.
template <typename T>
using Terms = std::conditional_t<(sizeof(T) < sizeof(float)), float, double>;

// The same of all channels.
template <typename W>
struct Slopes {
  const W *scale, *shift, *slope;
};

template <typename T, typename A, typename W = Terms<T>>
PT_MULTIVERSION void spread_rows(const Read<T, A>& read, T* __restrict to, int64_t to_step,
                                 const Slopes<W>& slopes, Block block) {
  const T* __restrict grad = read.grad.data;
  const T* __restrict out = read.out.data;
  const T* __restrict y = read.y.data;
  const A* __restrict mean = read.mean;
  const W* __restrict scale = slopes.scale;
  const W* __restrict shift = slopes.shift;
  const W* __restrict slope = slopes.slope;
  const int64_t g_step = read.grad.step, o_step = read.out.step, y_step = read.y.step;
  const int64_t channels = block.channels;
  const A least = bound<A>(read.relu);
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < channels; ++c) {
      const A g = let_through<T, A>(grad[c], out[c], least);
      const W centred = (static_cast<A>(y[c]) - mean[c]) * slope[c];
      to[c] = static_cast<T>(scale[c] * (g - shift[c] - centred));
    }
    grad += g_step;
    out += o_step;
    y += y_step;
    to += to_step;
  }
}

// What ReLU lets through: no normalisation.
template <typename T, typename A>
PT_MULTIVERSION void pass_through(const T* __restrict grad, const T* __restrict out,
                                  T* __restrict to, bool relu, int64_t count) {
  const A least = bound<A>(relu);
  for (int64_t i = 0; i < count; ++i)
    to[i] = static_cast<T>(let_through<T, A>(grad[i], out[i], least));
}

// Everything that the gradient reads and writes; y and mean may be missing, and `passed` may.
template <typename T, typename A>
struct Gradient {
  View<T> grad, out, y, to, passed;
  const A* mean;
  const double *invstd, *scale;
  bool relu;

  Read<T, A> read_from(int64_t row) const {
    return {grad.rows_from(row), out.rows_from(row), y.rows_from(row), mean, relu};
  }
};

template <typename T, typename A>
void through(const Extent& e, const Gradient<T, A>& g) {
  Extent whole = e;  // channels do not matter here: a sample's runs are one
  if (e.layout == Layout::Planes)
    whole = {e.batch, 1, e.channels * e.positions, e.layout, e.format};
  auto run = [&](int64_t n, int64_t) {
    pass_through<T, A>(g.grad.run(n, 0), g.out.run(n, 0), g.to.run(n, 0), g.relu, whole.positions);
  };
  auto rows = [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r)
      pass_through<T, A>(g.grad.from_row(r), g.out.from_row(r), g.to.from_row(r), g.relu,
                         e.channels);
  };
  for_every(whole, whole.channels, run, rows);
}

// Channel c's share of both sums in every element of its gradient.
template <typename T, typename A>
std::pair<double, double> shift_and_slope(const Extent& e, const Gradient<T, A>& g, const Sum& sum,
                                          int64_t c) {
  const double share = 1.0 / static_cast<double>(e.rows());
  return {sum.one * share, sum.two * share * g.invstd[c] * g.invstd[c]};
}

// One channel after the other, while it is in the cache.
template <typename T, typename A>
void normalised_planes(const Extent& e, const Gradient<T, A>& g) {
  for_channels(e, [&](int64_t c) {
    Sum sum;
    for (int64_t n = 0; n < e.batch; ++n)
      sum_run(g.grad.run(n, c), g.out.run(n, c), g.y.run(n, c), g.passed.run(n, c), g.mean[c],
              g.relu, e.positions, &sum);
    const auto [shift, slope] = shift_and_slope(e, g, sum, c);
    const Slope of{g.scale[c], shift, slope};
    for (int64_t n = 0; n < e.batch; ++n)
      spread<T, A>(g.grad.run(n, c), g.out.run(n, c), g.y.run(n, c), g.to.run(n, c), g.mean[c], of,
                   g.relu, e.positions);
  });
}

template <typename T, typename A>
std::vector<Sum> sums_over_rows(const Extent& e, const Gradient<T, A>& g) {
  return reduce_rows<Sum>(e, [&](int64_t first, int64_t rows, Sum* to) {
    std::vector<double> one(e.channels), two(e.channels);
    auto add = [&](auto sum, int64_t from, int64_t count) {
      sum(g.read_from(from), g.passed.from_row(from), g.passed.row, Block{count, e.channels},
          one.data(), two.data());
    };
    const int64_t most = rows / UNROLL * UNROLL;
    const bool passes = g.passed.data != nullptr;
    add(passes ? sum_rows<T, A, true, UNROLL> : sum_rows<T, A, false, UNROLL>, first, most);
    add(passes ? sum_rows<T, A, true, 1> : sum_rows<T, A, false, 1>, first + most, rows - most);
    for (int64_t c = 0; c < e.channels; ++c) to[c] = {one[c], two[c]};
  });
}

template <typename T, typename A>
void normalised_rows(const Extent& e, const Gradient<T, A>& g) {
  const std::vector<Sum> sums = sums_over_rows(e, g);
  std::vector<Terms<T>> scale(g.scale, g.scale + e.channels), shift(e.channels), slope(e.channels);
  for (int64_t c = 0; c < e.channels; ++c)
    std::tie(shift[c], slope[c]) = shift_and_slope(e, g, sums[c], c);
  const Slopes<Terms<T>> slopes{scale.data(), shift.data(), slope.data()};
  at::parallel_for(0, e.rows(), grain(e.channels), [&](int64_t from, int64_t to) {
    spread_rows<T, A>(g.read_from(from), g.to.from_row(from), g.to.row, slopes,
                      Block{to - from, e.channels});
  });
}

std::tuple<Tensor, Tensor> norm_act_backward(const Tensor& grad_in, const Tensor& out_in,
                                             const Tensor& y_in, const Affine& affine, bool relu,
                                             bool /*added*/, bool wants_residual) {
  const Extent e = extent_of(out_in);
  const bool normed = affine.defined();
  const Tensor out = sliceable(out_in, e.layout), grad = sliceable(grad_in, e.layout);
  const Tensor y = normed ? sliceable(y_in, e.layout) : Tensor();
  Tensor to = empty_as(e, out, e.channels);
  if (to.numel() == 0) return {to, wants_residual ? at::zeros_like(to) : Tensor()};
  const Tensor passed = wants_residual && normed ? empty_as(e, out, e.channels) : Tensor();
  PT_DISPATCH(out.scalar_type(), "norm_act_backward", [&] {
    using A = typename Sums<scalar_t>::type;
    auto view = [](const Tensor& t) { return view_of<scalar_t>(t); };
    auto values = [&](const Tensor& t) { return normed ? t.const_data_ptr<double>() : nullptr; };
    const A* mean = normed ? affine.mean.const_data_ptr<A>() : nullptr;
    const Gradient<scalar_t, A> g{view(grad),
                                  view(out),
                                  view(y),
                                  view(to),
                                  view(passed),
                                  mean,
                                  values(affine.invstd),
                                  values(affine.scale),
                                  relu};
    if (!normed)
      through(e, g);
    else if (e.layout == Layout::Rows)
      normalised_rows(e, g);
    else
      normalised_planes(e, g);
  });
  return {to, wants_residual ? (normed ? passed : to) : Tensor()};
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).norm_act_backward = &norm_act_backward;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
