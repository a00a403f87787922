// CPU kernel of normalisation by a batch's mean and variance.
#include "layout_cpu.h"

#include <cmath>

namespace pass_transfer {

namespace {

// What a channel's values add up to about one of them, in double: what float32 would round away of
// a variance is what is left of a gradient that cancels.
struct Moments {
  double sum = 0, squares = 0;
  void join(const Moments& other) {
    sum += other.sum;
    squares += other.squares;
  }
};

template <typename T, typename A>
PT_MULTIVERSION void moments(const T* y, double pivot, int64_t count, Moments* to) {
  double sums[LANES] = {}, squares[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) {
      const double d = static_cast<double>(static_cast<A>(y[i + j])) - pivot;
      sums[j] += d;
      squares[j] += d * d;
    }
  for (int64_t j = 0; i < count; ++i, ++j) {
    const double d = static_cast<double>(static_cast<A>(y[i])) - pivot;
    sums[j] += d;
    squares[j] += d * d;
  }
  for (int64_t j = 0; j < LANES; ++j) to->join({sums[j], squares[j]});
}

// Of every channel, STEP rows at a time.
template <typename T, typename A, int64_t STEP>
PT_MULTIVERSION void moments_rows(const T* __restrict y, int64_t row,
                                  const double* __restrict pivot, int64_t rows, int64_t channels,
                                  double* __restrict sums, double* __restrict squares) {
  for (int64_t r = 0; r < rows; r += STEP, y += STEP * row)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = sums[c], square = squares[c];
      for (int64_t k = 0; k < STEP; ++k) {
        const double d = static_cast<double>(static_cast<A>(y[k * row + c])) - pivot[c];
        sum += d;
        square += d * d;
      }
      sums[c] = sum;
      squares[c] = square;
    }
}

template <typename T, typename A>
std::vector<Moments> moments_of(const Extent& e, const View<T>& y,
                                const std::vector<double>& pivot) {
  return reduce<Moments>(
      e,
      [&](int64_t n, int64_t c, Moments& to) {
        moments<T, A>(y.run(n, c), pivot[c], e.positions, &to);
      },
      [&](int64_t first, int64_t rows, Moments* to) {
        std::vector<double> sums(e.channels), squares(e.channels);
        const int64_t most = rows / UNROLL * UNROLL;
        moments_rows<T, A, UNROLL>(y.from_row(first), y.row, pivot.data(), most, e.channels,
                                   sums.data(), squares.data());
        moments_rows<T, A, 1>(y.from_row(first + most), y.row, pivot.data(), rows - most,
                              e.channels, sums.data(), squares.data());
        for (int64_t c = 0; c < e.channels; ++c) to[c] = {sums[c], squares[c]};
      });
}

Affine normalisation(const Tensor& y_in, double eps, const Tensor& weight, const Tensor& bias,
                     const Selection& which) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout);
  const auto options = y.options().dtype(sums_of(y));
  Tensor mean = at::zeros({e.channels}, options),
         invstd = at::zeros({e.channels}, options.dtype(at::kDouble));
  if (y.numel() > 0)
    PT_DISPATCH(y.scalar_type(), "normalisation", [&] {
      using A = typename Sums<scalar_t>::type;
      const View<scalar_t> v = view_of<scalar_t>(y);
      std::vector<double> pivot(e.channels);
      for (int64_t c = 0; c < e.channels; ++c)
        pivot[c] = static_cast<double>(static_cast<A>(*v.run(0, c)));
      const std::vector<Moments> all = moments_of<scalar_t, A>(e, v, pivot);
      const double share = 1.0 / static_cast<double>(e.rows());
      for (int64_t c = 0; c < e.channels; ++c) {
        const double shift = all[c].sum * share, variance = all[c].squares * share - shift * shift;
        mean.data_ptr<A>()[c] = static_cast<A>(pivot[c] + shift);
        invstd.data_ptr<double>()[c] = 1.0 / std::sqrt(std::max(variance, 0.0) + eps);
      }
    });
  return {
      mean, invstd, which.of(weight.to(at::kDouble)) * invstd,
      which.of(bias).to(options, false, true)};  // a copy: an output must not be an input's memory
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).normalisation = &normalisation;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
