// CPU kernels of a fused layer but for its convolution; each tensor is read as few times as the mathematics allows.
#include "kernels.h"

#include <algorithm>
#include <cmath>

namespace pass_transfer {

namespace {

constexpr int64_t GRAIN = 1 << 14;  // elements that are worth a thread
constexpr int64_t CHUNKS = 16;      // partial sums over rows: fixed, so that any number of threads sums alike
constexpr int64_t LANES = 16;
constexpr int64_t BLOCK = 64;       // rows that stay in a core's cache between two passes over them

template <typename T> struct Sums { using type = float; };
template <> struct Sums<double> { using type = double; };

// Channels [first, first + count) of a (B, C, H, W) tensor in memory.
template <typename T>
struct View {
  T* data;
  int64_t sample;  // from one sample to the next; Planes
  int64_t row;     // from one position to the next; Rows
};

struct Extent {
  int64_t batch, positions;
  Layout layout;             // how the kernels walk
  at::MemoryFormat format;   // of what they make
  int64_t rows() const { return batch * positions; }
};

Extent extent_of(const Tensor& y) {
  const int64_t positions = y.size(2) * y.size(3);
  const bool rows = positions == 1 || (y.stride(1) == 1 && y.size(1) > 1) || layout_of(y) == Layout::Rows;
  return {y.size(0), positions, rows ? Layout::Rows : Layout::Planes, format_of(layout_of(y))};
}

// The tensor itself where its strides are those of a slice of channels in this layout, else a copy.
Tensor sliceable(const Tensor& t, Layout layout) {
  const int64_t h = t.size(2), w = t.size(3);
  auto is = [&](int64_t dim, int64_t stride) { return t.size(dim) == 1 || t.stride(dim) == stride; };
  if (layout == Layout::Planes) return is(1, h * w) && is(2, w) && is(3, 1) ? t : t.contiguous();
  const int64_t row = w > 1 ? t.stride(3) : h > 1 ? t.stride(2) : t.stride(0);
  const bool fits = is(1, 1) && row >= t.size(1) && is(3, row) && is(2, w * row) && is(0, h * w * row);
  if (fits) return t;
  return h * w == 1 ? t.contiguous() : t.contiguous(at::MemoryFormat::ChannelsLast);
}

template <typename T>
View<T> view_of(const Tensor& t, int64_t first = 0) {
  const int64_t h = t.size(2), w = t.size(3);
  const int64_t row = w > 1 ? t.stride(3) : h > 1 ? t.stride(2) : t.size(0) > 1 ? t.stride(0) : t.size(1);
  return {static_cast<T*>(t.data_ptr()) + first * t.stride(1), t.stride(0), row};
}

Tensor empty_as(const Extent& e, const Tensor& y, int64_t channels) {
  return at::empty({e.batch, channels, y.size(2), y.size(3)}, y.options(), e.format);
}

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
    const double delta = sum / n - mean, total = count + n;
    mean += delta * n / total;
    squares += other + delta * delta * count * n / total;
    count = total;
  }
  void join(const Moments& m) { join(m.count, m.mean * m.count, m.squares); }
};

template <typename T, typename A>
PT_MULTIVERSION void activate(const T* y, const T* residual, T* out, A mean, A scale, A shift, bool relu, int64_t count) {
  const A least = relu ? A(0) : -std::numeric_limits<A>::infinity();
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
PT_MULTIVERSION void activate_rows(const T* y, int64_t y_row, const T* residual, int64_t r_row, T* out, int64_t o_row, const A* mean, const A* scale,
                                   const A* shift, bool relu, int64_t rows, int64_t channels) {
  const A least = relu ? A(0) : -std::numeric_limits<A>::infinity();
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

// Sums of g and of g * xhat over a run, where g is the gradient that ReLU lets through; `passed` gets g if it is there.
template <typename T, typename A>
PT_MULTIVERSION void reduce(const T* grad, const T* a, const T* y, T* passed, A mean, A invstd, bool relu, int64_t count, A* s1, A* s2) {
  A first[LANES] = {}, second[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) {
      const A g = !relu || static_cast<A>(a[i + j]) > A(0) ? static_cast<A>(grad[i + j]) : A(0);
      first[j] += g;
      second[j] += g * (static_cast<A>(y[i + j]) - mean);
      if (passed) passed[i + j] = static_cast<T>(g);
    }
  A one = 0, two = 0;
  for (; i < count; ++i) {
    const A g = !relu || static_cast<A>(a[i]) > A(0) ? static_cast<A>(grad[i]) : A(0);
    one += g;
    two += g * (static_cast<A>(y[i]) - mean);
    if (passed) passed[i] = static_cast<T>(g);
  }
  for (int64_t j = 0; j < LANES; ++j) {
    one += first[j];
    two += second[j];
  }
  *s1 = one;
  *s2 = two * invstd;
}

template <typename T, typename A>
PT_MULTIVERSION void reduce_rows(const T* grad, int64_t g_row, const T* a, int64_t a_row, const T* y, int64_t y_row, T* passed, int64_t p_row,
                                 const A* mean, bool relu, int64_t rows, int64_t channels, A* s1, A* s2) {
  for (int64_t r = 0; r < rows; ++r, grad += g_row, a += a_row, y += y_row) {
    for (int64_t c = 0; c < channels; ++c) {
      const A g = !relu || static_cast<A>(a[c]) > A(0) ? static_cast<A>(grad[c]) : A(0);
      s1[c] += g;
      s2[c] += g * (static_cast<A>(y[c]) - mean[c]);
      if (passed) passed[c] = static_cast<T>(g);
    }
    if (passed) passed += p_row;
  }
}

// scale * (g - s1 - xhat * s2), with the sums already divided by their count.
template <typename T, typename A>
PT_MULTIVERSION void spread(const T* grad, const T* a, const T* y, T* out, A mean, A invstd, A scale, A s1, A s2, bool relu, int64_t count) {
  const A slope = invstd * s2;
  for (int64_t i = 0; i < count; ++i) {
    const A g = !relu || static_cast<A>(a[i]) > A(0) ? static_cast<A>(grad[i]) : A(0);
    out[i] = static_cast<T>(scale * (g - s1 - (static_cast<A>(y[i]) - mean) * slope));
  }
}

template <typename T, typename A>
PT_MULTIVERSION void spread_rows(const T* grad, int64_t g_row, const T* a, int64_t a_row, const T* y, int64_t y_row, T* out, int64_t o_row,
                                 const A* mean, const A* scale, const A* s1, const A* slope, bool relu, int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, grad += g_row, a += a_row, y += y_row, out += o_row)
    for (int64_t c = 0; c < channels; ++c) {
      const A g = !relu || static_cast<A>(a[c]) > A(0) ? static_cast<A>(grad[c]) : A(0);
      out[c] = static_cast<T>(scale[c] * (g - s1[c] - (static_cast<A>(y[c]) - mean[c]) * slope[c]));
    }
}

// scale * what ReLU lets through: no normalisation.
template <typename T, typename A>
PT_MULTIVERSION void pass_through(const T* grad, const T* a, T* out, bool relu, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = !relu || static_cast<A>(a[i]) > A(0) ? grad[i] : static_cast<T>(A(0));
}

template <typename T, typename A>
PT_MULTIVERSION A dot(const T* x, const T* g, int64_t count) {
  A lanes[LANES] = {}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int64_t j = 0; j < LANES; ++j) lanes[j] += static_cast<A>(x[i + j]) * static_cast<A>(g[i + j]);
  for (; i < count; ++i) sum += static_cast<A>(x[i]) * static_cast<A>(g[i]);
  for (A lane : lanes) sum += lane;
  return sum;
}

template <typename T, typename A>
PT_MULTIVERSION void dot_rows(const T* x, int64_t x_row, const T* g, int64_t g_row, int64_t rows, int64_t channels, A* sums) {
  for (int64_t r = 0; r < rows; ++r, x += x_row, g += g_row)
    for (int64_t c = 0; c < channels; ++c) sums[c] += static_cast<A>(x[c]) * static_cast<A>(g[c]);
}

int64_t grain(int64_t each) { return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, each)); }

// body(chunk, first row, rows) over a fixed number of chunks, in parallel.
template <typename Body>
void over_chunks(int64_t rows, int64_t channels, const Body& body) {
  const int64_t step = (rows + CHUNKS - 1) / CHUNKS;
  at::parallel_for(0, CHUNKS, grain(step * channels), [&](int64_t a, int64_t b) {
    for (int64_t chunk = a; chunk < b; ++chunk) {
      const int64_t first = std::min(rows, chunk * step);
      body(chunk, first, std::min(rows, first + step) - first);
    }
  });
}

template <typename A>
Tensor totals(const std::vector<A>& partial, int64_t channels, const at::TensorOptions& options) {
  Tensor out = at::empty({channels}, options);
  A* to = out.data_ptr<A>();
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < CHUNKS; ++chunk) sum += partial[chunk * channels + c];
    to[c] = static_cast<A>(sum);
  }
  return out;
}

std::tuple<Tensor, Tensor> batch_statistics(const Tensor& y_in, double eps) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout);
  const int64_t channels = y.size(1);
  const auto options = y.options().dtype(y.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  Tensor mean = at::zeros({channels}, options), invstd = at::zeros({channels}, options);
  std::vector<Moments> all(channels);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, y.scalar_type(), "batch_statistics", [&] {
    using acc_t = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(y);
    if (e.layout == Layout::Planes) {
      at::parallel_for(0, channels, grain(e.rows()), [&](int64_t a, int64_t b) {
        for (int64_t c = a; c < b; ++c)
          for (int64_t n = 0; n < e.batch; ++n) {
            acc_t sum, squares;
            moments(v.data + n * v.sample + c * e.positions, e.positions, &sum, &squares);
            all[c].join(static_cast<double>(e.positions), sum, squares);
          }
      });
    } else {
      std::vector<Moments> partial(CHUNKS * channels);
      over_chunks(e.rows(), channels, [&](int64_t chunk, int64_t first, int64_t rows) {
        std::vector<acc_t> sum(channels), squares(channels);
        for (int64_t r = 0; r < rows; r += BLOCK) {
          const int64_t count = std::min(BLOCK, rows - r);
          moments_rows(v.data + (first + r) * v.row, v.row, count, channels, sum.data(), squares.data());
          for (int64_t c = 0; c < channels; ++c) partial[chunk * channels + c].join(static_cast<double>(count), sum[c], squares[c]);
        }
      });
      for (int64_t chunk = 0; chunk < CHUNKS; ++chunk)
        for (int64_t c = 0; c < channels; ++c) all[c].join(partial[chunk * channels + c]);
    }
    for (int64_t c = 0; c < channels; ++c) {
      mean.data_ptr<acc_t>()[c] = static_cast<acc_t>(all[c].mean);
      const double variance = all[c].count > 0 ? all[c].squares / all[c].count : 0;
      invstd.data_ptr<acc_t>()[c] = static_cast<acc_t>(1.0 / std::sqrt(variance + eps));
    }
  });
  return {mean, invstd};
}

Tensor norm_act(const Tensor& y_in, int64_t first, int64_t count, const Affine& affine, const Maybe& residual_in, bool relu) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout);
  const Tensor residual = residual_in ? sliceable(*residual_in, e.layout) : Tensor();
  Tensor out = empty_as(e, y, count);
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, y.scalar_type(), "norm_act", [&] {
    using acc_t = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(y, first), o = view_of<scalar_t>(out);
    const View<scalar_t> r = residual.defined() ? view_of<scalar_t>(residual) : View<scalar_t>{nullptr, 0, 0};
    const acc_t* mean = affine.mean.data_ptr<acc_t>() + first;
    const acc_t* scale = affine.scale.data_ptr<acc_t>() + first;
    const acc_t* shift = affine.shift.data_ptr<acc_t>() + first;
    if (e.layout == Layout::Planes) {
      at::parallel_for(0, e.batch * count, grain(e.positions), [&](int64_t a, int64_t b) {
        for (int64_t i = a; i < b; ++i) {
          const int64_t n = i / count, c = i % count, at = c * e.positions;
          activate(v.data + n * v.sample + at, r.data ? r.data + n * r.sample + at : nullptr, o.data + n * o.sample + at, mean[c], scale[c], shift[c],
                   relu, e.positions);
        }
      });
    } else {
      at::parallel_for(0, e.rows(), grain(count), [&](int64_t a, int64_t b) {
        activate_rows(v.data + a * v.row, v.row, r.data ? r.data + a * r.row : nullptr, r.row, o.data + a * o.row, o.row, mean, scale, shift, relu,
                      b - a, count);
      });
    }
  });
  return out;
}

std::tuple<Tensor, Tensor> norm_act_backward(const Tensor& grad_in, const Tensor& a_in, const Tensor& y_in, const Tensor& mean_of, const Tensor& invstd_of,
                                             const Tensor& scale_of, bool relu, bool wants_residual) {
  const Extent e = extent_of(a_in);
  const Tensor a = sliceable(a_in, e.layout), grad = sliceable(grad_in, e.layout);
  const int64_t channels = a.size(1);
  Tensor out = empty_as(e, a, channels);
  if (out.numel() == 0) return {out, wants_residual ? at::zeros_like(out) : Tensor()};
  const bool normed = mean_of.defined();
  const Tensor y = normed ? sliceable(y_in, e.layout) : a;
  Tensor passed = wants_residual && normed ? empty_as(e, a, channels) : Tensor();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, a.scalar_type(), "norm_act_backward", [&] {
    using acc_t = typename Sums<scalar_t>::type;
    const View<scalar_t> g = view_of<scalar_t>(grad), act = view_of<scalar_t>(a), v = view_of<scalar_t>(y), o = view_of<scalar_t>(out);
    const View<scalar_t> p = passed.defined() ? view_of<scalar_t>(passed) : View<scalar_t>{nullptr, 0, 0};
    if (!normed) {
      if (e.layout == Layout::Planes) {
        at::parallel_for(0, e.batch, 1, [&](int64_t from, int64_t to) {
          for (int64_t n = from; n < to; ++n)
            pass_through<scalar_t, acc_t>(g.data + n * g.sample, act.data + n * act.sample, o.data + n * o.sample, relu, channels * e.positions);
        });
      } else {
        at::parallel_for(0, e.rows(), grain(channels), [&](int64_t from, int64_t to) {
          for (int64_t r = from; r < to; ++r) pass_through<scalar_t, acc_t>(g.data + r * g.row, act.data + r * act.row, o.data + r * o.row, relu, channels);
        });
      }
      return;
    }
    const acc_t* mean = mean_of.data_ptr<acc_t>();
    const acc_t* invstd = invstd_of.data_ptr<acc_t>();
    const acc_t* scale = scale_of.data_ptr<acc_t>();
    const double share = 1.0 / static_cast<double>(e.rows());
    if (e.layout == Layout::Planes) {
      at::parallel_for(0, channels, grain(e.rows()), [&](int64_t from, int64_t to) {
        for (int64_t c = from; c < to; ++c) {
          const int64_t at = c * e.positions;
          double s1 = 0, s2 = 0;
          for (int64_t n = 0; n < e.batch; ++n) {
            acc_t one, two;
            reduce(g.data + n * g.sample + at, act.data + n * act.sample + at, v.data + n * v.sample + at, p.data ? p.data + n * p.sample + at : nullptr,
                   mean[c], invstd[c], relu, e.positions, &one, &two);
            s1 += one;
            s2 += two;
          }
          for (int64_t n = 0; n < e.batch; ++n)
            spread(g.data + n * g.sample + at, act.data + n * act.sample + at, v.data + n * v.sample + at, o.data + n * o.sample + at, mean[c], invstd[c],
                   scale[c], static_cast<acc_t>(s1 * share), static_cast<acc_t>(s2 * share), relu, e.positions);
        }
      });
    } else {
      std::vector<acc_t> one(CHUNKS * channels), two(CHUNKS * channels);
      over_chunks(e.rows(), channels, [&](int64_t chunk, int64_t first, int64_t rows) {
        reduce_rows(g.data + first * g.row, g.row, act.data + first * act.row, act.row, v.data + first * v.row, v.row,
                    p.data ? p.data + first * p.row : nullptr, p.row, mean, relu, rows, channels, one.data() + chunk * channels,
                    two.data() + chunk * channels);
      });
      Tensor s1 = totals(one, channels, mean_of.options()), s2 = totals(two, channels, mean_of.options());
      acc_t* first_sum = s1.data_ptr<acc_t>();
      acc_t* slope = s2.data_ptr<acc_t>();
      for (int64_t c = 0; c < channels; ++c) {
        first_sum[c] = static_cast<acc_t>(first_sum[c] * share);
        slope[c] = static_cast<acc_t>(slope[c] * share * invstd[c] * invstd[c]);
      }
      at::parallel_for(0, e.rows(), grain(channels), [&](int64_t from, int64_t to) {
        spread_rows(g.data + from * g.row, g.row, act.data + from * act.row, act.row, v.data + from * v.row, v.row, o.data + from * o.row, o.row, mean,
                    scale, first_sum, slope, relu, to - from, channels);
      });
    }
  });
  return {out, wants_residual ? (normed ? passed : out) : Tensor()};
}

Tensor channel_dots(const Tensor& x_in, const Tensor& g_in, int64_t first) {
  const Extent e = extent_of(g_in);
  const Tensor x = sliceable(x_in, e.layout), g = sliceable(g_in, e.layout);
  const int64_t channels = x.size(1);
  Tensor out = at::zeros({channels}, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  if (x.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "channel_dots", [&] {
    using acc_t = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(x), w = view_of<scalar_t>(g, first);
    if (e.layout == Layout::Planes) {
      at::parallel_for(0, channels, grain(e.rows()), [&](int64_t a, int64_t b) {
        for (int64_t c = a; c < b; ++c) {
          double sum = 0;
          for (int64_t n = 0; n < e.batch; ++n)
            sum += dot<scalar_t, acc_t>(v.data + n * v.sample + c * e.positions, w.data + n * w.sample + c * e.positions, e.positions);
          out.data_ptr<acc_t>()[c] = static_cast<acc_t>(sum);
        }
      });
    } else {
      std::vector<acc_t> partial(CHUNKS * channels);
      over_chunks(e.rows(), channels, [&](int64_t chunk, int64_t from, int64_t rows) {
        dot_rows(v.data + from * v.row, v.row, w.data + from * w.row, w.row, rows, channels, partial.data() + chunk * channels);
      });
      out = totals(partial, channels, out.options());
    }
  });
  return out;
}

// Rows `outs` and columns `ins` of a weight (O, I, kh, kw), each times its input's mask, laid out as `layout` has it.
template <typename T>
void gather_into(const Tensor& weight, const int64_t* outs, int64_t out_count, const int64_t* ins, int64_t in_count, const float* mask, Tensor& to,
                 Layout layout) {
  const int64_t area = weight.size(2) * weight.size(3), width = weight.size(3);
  const T* from = weight.const_data_ptr<T>();
  T* target = to.data_ptr<T>();
  const int64_t so = weight.stride(0), si = weight.stride(1), sh = weight.stride(2), sw = weight.stride(3);
  at::parallel_for(0, out_count, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, in_count * area)), [&](int64_t a, int64_t b) {
    for (int64_t o = a; o < b; ++o) {
      const T* row = from + (outs ? outs[o] : o) * so;
      T* out = target + o * in_count * area;
      if (layout == Layout::Planes) {
        for (int64_t i = 0; i < in_count; ++i, out += area) {
          const T* cell = row + (ins ? ins[i] : i) * si;
          const T factor = mask ? static_cast<T>(mask[i]) : T(1);
          if (sw == 1 && sh == width) {
            for (int64_t k = 0; k < area; ++k) out[k] = cell[k] * factor;
          } else {
            for (int64_t k = 0; k < area; ++k) out[k] = cell[(k / width) * sh + (k % width) * sw] * factor;
          }
        }
      } else {
        for (int64_t k = 0; k < area; ++k, out += in_count) {
          const T* cell = row + (k / width) * sh + (k % width) * sw;
          for (int64_t i = 0; i < in_count; ++i) out[i] = cell[(ins ? ins[i] : i) * si] * (mask ? static_cast<T>(mask[i]) : T(1));
        }
      }
    }
  });
}

Tensor gather_weight(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& mask, Layout layout) {
  Tensor to = at::empty({outs.count, ins.count, weight.size(2), weight.size(3)}, weight.options(), format_of(layout));
  if (to.numel() == 0) return to;
  const Tensor rows = outs.index.defined() ? outs.index.contiguous() : Tensor(), columns = ins.index.defined() ? ins.index.contiguous() : Tensor();
  const int64_t* out_index = rows.defined() ? rows.const_data_ptr<int64_t>() : nullptr;
  const int64_t* in_index = columns.defined() ? columns.const_data_ptr<int64_t>() : nullptr;
  const float* factors = mask.defined() ? mask.const_data_ptr<float>() : nullptr;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, weight.scalar_type(), "gather_weight",
                                  [&] { gather_into<scalar_t>(weight, out_index, outs.count, in_index, ins.count, factors, to, layout); });
  return to;
}

[[maybe_unused]] const bool set = [] {
  Kernels& kernels = kernels_of(c10::DeviceType::CPU);
  kernels.batch_statistics = &batch_statistics;
  kernels.norm_act = &norm_act;
  kernels.norm_act_backward = &norm_act_backward;
  kernels.channel_dots = &channel_dots;
  kernels.gather_weight = &gather_weight;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
