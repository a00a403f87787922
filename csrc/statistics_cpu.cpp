// CPU kernel of a batch's mean and variance by channel.
#include "layout_cpu.h"

#include <cmath>

namespace pass_transfer {

namespace {

constexpr int64_t BLOCK = 64;  // rows that stay in a core's cache between two passes over them

// Sum, and sum of squared distances from that sum's mean, of a run of values.
template <typename T, typename A>
PT_MULTIVERSION void moments(const T* y, int64_t count, A* sum, A* squares) {
  A lanes[LANES] = {}, total = 0;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) lanes[j] += static_cast<A>(y[i + j]);
  for (; i < count; ++i) total += static_cast<A>(y[i]);
  for (A lane : lanes) total += lane;
  const A mean = total / static_cast<A>(count);
  A spread[LANES] = {}, rest = 0;
  for (i = 0; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) {
      const A d = static_cast<A>(y[i + j]) - mean;
      spread[j] += d * d;
    }
  for (; i < count; ++i) rest += (static_cast<A>(y[i]) - mean) * (static_cast<A>(y[i]) - mean);
  for (A lane : spread) rest += lane;
  *sum = total;
  *squares = rest;
}

// The same for every channel of a block of rows.
template <typename T, typename A>
PT_MULTIVERSION void moments_rows(const T* y, int64_t row, int64_t rows, int64_t channels, A* sum, A* squares) {
  std::fill(sum, sum + channels, A(0));
  std::fill(squares, squares + channels, A(0));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) sum[c] += static_cast<A>(y[r * row + c]);
  const A share = A(1) / static_cast<A>(rows);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      const A d = static_cast<A>(y[r * row + c]) - sum[c] * share;
      squares[c] += d * d;
    }
}

// Two sets of values joined: Chan, Golub and LeVeque's update of mean and squared distances.
struct Moments {
  double count = 0, mean = 0, squares = 0;
  void join(double n, double sum, double other) {
    if (n == 0) return;
    const double delta = sum / n - mean, total = count + n, share = n / total;
    mean += delta * share;
    squares += other + delta * delta * count * share;
    count = total;
  }
  void join(const Moments& m) { join(m.count, m.mean * m.count, m.squares); }
};

template <typename T, typename A>
std::vector<Moments> moments_of(const Extent& e, const View<T>& y) {
  return reduce<Moments>(
      e,
      [&](int64_t n, int64_t c, Moments& to) {
        A sum, squares;
        moments(y.run(n, c), e.positions, &sum, &squares);
        to.join(static_cast<double>(e.positions), sum, squares);
      },
      [&](int64_t first, int64_t rows, Moments* to) {
        std::vector<A> sum(e.channels), squares(e.channels);
        for (int64_t r = 0; r < rows; r += BLOCK) {
          const int64_t count = std::min(BLOCK, rows - r);
          moments_rows(y.from_row(first + r), y.row, count, e.channels, sum.data(), squares.data());
          for (int64_t c = 0; c < e.channels; ++c) to[c].join(static_cast<double>(count), sum[c], squares[c]);
        }
      });
}

std::tuple<Tensor, Tensor> batch_statistics(const Tensor& y_in, double eps) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout);
  const auto options = y.options().dtype(sums_of(y));
  Tensor mean = at::zeros({e.channels}, options), invstd = at::zeros({e.channels}, options);
  PT_DISPATCH(y.scalar_type(), "batch_statistics", [&] {
    using A = typename Sums<scalar_t>::type;
    const std::vector<Moments> all = moments_of<scalar_t, A>(e, view_of<scalar_t>(y));
    for (int64_t c = 0; c < e.channels; ++c) {
      mean.data_ptr<A>()[c] = static_cast<A>(all[c].mean);
      const double variance = all[c].count > 0 ? all[c].squares / all[c].count : 0;
      invstd.data_ptr<A>()[c] = static_cast<A>(1.0 / std::sqrt(variance + eps));
    }
  });
  return {mean, invstd};
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).batch_statistics = &batch_statistics;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
