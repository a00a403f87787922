// CPU kernels of x * mask over channels, and of the dots that are a mask's gradient.
#include "layout_cpu.h"

namespace pass_transfer {

namespace {

struct Total {
  double value = 0;
  void join(const Total& other) { value += other.value; }
};

template <typename T, typename A>
PT_MULTIVERSION void scale(const T* __restrict x, T* __restrict out, A m, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(static_cast<A>(x[i]) * m);
}

template <typename T, typename A>
PT_MULTIVERSION void scale_rows(const T* __restrict x, int64_t x_row, T* __restrict out,
                                int64_t o_row, const A* __restrict m, int64_t rows,
                                int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, x += x_row, out += o_row)
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<T>(static_cast<A>(x[c]) * m[c]);
}

// <x, g>, summed in double, over a run of one channel's positions.
// With WRITES, m * g goes to `out` in the same pass.
template <typename T, typename A, bool WRITES>
PT_MULTIVERSION double dot(const T* __restrict x, const T* __restrict g, T* __restrict out, A m,
                           int64_t count) {
  double lanes[LANES] = {}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int64_t j = 0; j < LANES; ++j) {
      const A value = static_cast<A>(g[i + j]);
      lanes[j] += static_cast<double>(static_cast<A>(x[i + j])) * value;
      if constexpr (WRITES) out[i + j] = static_cast<T>(value * m);
    }
  }
  for (; i < count; ++i) {
    const A value = static_cast<A>(g[i]);
    sum += static_cast<double>(static_cast<A>(x[i])) * value;
    if constexpr (WRITES) out[i] = static_cast<T>(value * m);
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

// The same over rows of all channels, STEP at a time: sums (C,) grow by <x_c, g_c>.
template <typename T, typename A, bool WRITES, int64_t STEP>
PT_MULTIVERSION void dot_rows(Rows<T> x_rows, Rows<T> g_rows, T* __restrict out, int64_t out_step,
                              const A* __restrict m, Block block, double* __restrict sums) {
  const T* __restrict x = x_rows.data;
  const T* __restrict g = g_rows.data;
  const int64_t x_step = x_rows.step, g_step = g_rows.step, channels = block.channels;
  for (int64_t r = 0; r < block.rows; r += STEP, x += STEP * x_step, g += STEP * g_step) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = sums[c];
      for (int64_t k = 0; k < STEP; ++k) {
        const A value = static_cast<A>(g[k * g_step + c]);
        sum += static_cast<double>(static_cast<A>(x[k * x_step + c])) * value;
        if constexpr (WRITES) out[k * out_step + c] = static_cast<T>(value * m[c]);
      }
      sums[c] = sum;
    }
    if constexpr (WRITES) out += STEP * out_step;
  }
}

template <typename T, typename A, bool WRITES>
std::vector<Total> totals(const Extent& e, const View<T>& x, const View<T>& g, const View<T>& out,
                          const A* m) {
  auto run = [&](int64_t n, int64_t c, Total& to) {
    to.value += dot<T, A, WRITES>(x.run(n, c), g.run(n, c), out.run(n, c), WRITES ? m[c] : A(0),
                                  e.positions);
  };
  auto rows = [&](int64_t first, int64_t count, Total* to) {
    std::vector<double> sums(e.channels);
    auto add = [&](auto dots, int64_t from, int64_t some) {
      dots(x.rows_from(from), g.rows_from(from), out.from_row(from), out.row, m,
           Block{some, e.channels}, sums.data());
    };
    const int64_t most = count / UNROLL * UNROLL;
    add(dot_rows<T, A, WRITES, UNROLL>, first, most);
    add(dot_rows<T, A, WRITES, 1>, first + most, count - most);
    for (int64_t c = 0; c < e.channels; ++c) to[c].value = sums[c];
  };
  return reduce<Total>(e, run, rows);
}

// <x_c, g_c> for every channel of x, with g's from `first` on.
// With a mask, mask * g is written to `out` in the same pass.
Tensor dots(const Extent& e, const Tensor& x_in, const Tensor& g_in, int64_t first,
            const Tensor& mask, const Tensor& out) {
  const Tensor x = sliceable(x_in, e.layout), g = sliceable(g_in, e.layout);
  Tensor sums = at::zeros({e.channels}, x.options().dtype(sums_of(x)));
  if (x.numel() == 0) return sums;
  PT_DISPATCH(x.scalar_type(), "channel_dots", [&] {
    using A = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(x), w = view_of<scalar_t>(g, first),
                         o = view_of<scalar_t>(out);
    const auto found = out.defined()
                           ? totals<scalar_t, A, true>(e, v, w, o, mask.const_data_ptr<A>())
                           : totals<scalar_t, A, false>(e, v, w, o, nullptr);
    for (int64_t c = 0; c < e.channels; ++c) sums.data_ptr<A>()[c] = static_cast<A>(found[c].value);
  });
  return sums;
}

Tensor channel_dots(const Tensor& x, const Tensor& g, int64_t first) {
  Extent e = extent_of(g);
  e.channels = x.size(1);
  return dots(e, x, g, first, Tensor(), Tensor());
}

Tensor mask_gradient(const Tensor& x, const OptionalTensor& dropped, const Tensor& mask, Tensor& g,
                     bool masks) {
  const int64_t ins = x.size(1);
  Tensor found = channel_dots(x, g, 0);
  if (dropped)
    found = at::cat({found, g.size(1) > ins ? channel_dots(*dropped, g, ins)
                                            : at::zeros({dropped->size(1)}, found.options())});
  const Tensor m = mask.narrow(0, 0, ins).to(at::kDouble).contiguous();
  const double* values = m.const_data_ptr<double>();
  const int64_t ones = std::find_if(values, values + ins, [](double v) { return v != 1; }) -
                       values;  // those in front are left as they are
  if (masks && ones < ins)
    g.narrow(1, ones, ins - ones)
        .mul_(m.narrow(0, ones, ins - ones).to(g.scalar_type()).view({1, ins - ones, 1, 1}));
  return found.to(mask.scalar_type());
}

Tensor mask_channels(const Tensor& x_in, const Tensor& mask_in) {
  const Extent e = extent_of(x_in);
  const Tensor x = sliceable(x_in, e.layout), mask = mask_in.to(sums_of(x)).contiguous();
  Tensor out = empty_as(e, x, e.channels);
  if (x.numel() == 0) return out;
  PT_DISPATCH(x.scalar_type(), "mask_channels", [&] {
    using A = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(x), o = view_of<scalar_t>(out);
    const A* m = mask.const_data_ptr<A>();
    for_every(
        e, e.channels,
        [&](int64_t n, int64_t c) { scale(v.run(n, c), o.run(n, c), m[c], e.positions); },
        [&](int64_t first, int64_t count) {
          scale_rows(v.from_row(first), v.row, o.from_row(first), o.row, m, count, e.channels);
        });
  });
  return out;
}

std::tuple<Tensor, Tensor> mask_channels_backward(const Tensor& grad, const Tensor& x,
                                                  const Tensor& mask) {
  const Extent e = extent_of(x);
  Tensor out = empty_as(e, x, e.channels);
  const Tensor sums = dots(e, x, grad, 0, mask.to(sums_of(x)).contiguous(), out);
  return {out, sums.to(mask.scalar_type())};
}

[[maybe_unused]] const bool set = [] {
  Kernels& kernels = kernels_of(c10::DeviceType::CPU);
  kernels.mask_channels = &mask_channels;
  kernels.mask_channels_backward = &mask_channels_backward;
  kernels.mask_gradient = &mask_gradient;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
