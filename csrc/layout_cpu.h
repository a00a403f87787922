// How the CPU's kernels walk a tensor with channels in dimension 1: by runs of one channel's
// positions, or by rows of all channels.
#pragma once

#include "kernels.h"

#include <algorithm>

namespace pass_transfer {

constexpr int64_t GRAIN = 1 << 14;  // elements that are worth a thread
constexpr int64_t CHUNKS =
    16;  // partial sums over rows: fixed, so that any number of threads sums alike
constexpr int64_t LANES = 16;  // partial sums within a run
constexpr int64_t UNROLL =
    4;  // rows that are added up before their channels' sums are written back

struct Extent {
  int64_t batch, channels, positions;
  Layout layout;            // how the kernels walk
  at::MemoryFormat format;  // of what they make
  int64_t rows() const { return batch * positions; }
};

inline Extent extent_of(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  const bool together = x.dim() == 4 && x.size(1) > 1 && x.stride(1) == 1,
             rows = positions == 1 || together || layout_of(x) == Layout::Rows;
  const Layout layout = rows ? Layout::Rows : Layout::Planes;
  return {x.size(0), x.size(1), positions, layout,
          positions == 1 ? at::MemoryFormat::Contiguous : format_of(layout)};
}

// Rows of all channels, one after the other.
template <typename T>
struct Rows {
  T* data;
  int64_t step;  // from one row to the next
};

// How many rows of how many channels.
struct Block {
  int64_t rows, channels;
};

// Channels of a tensor in memory; data may be null where a kernel can do without.
template <typename T>
struct View {
  T* data;
  int64_t sample, channel, row;  // from one sample, channel, position to the next
  T* run(int64_t n, int64_t c) const { return data ? data + n * sample + c * channel : nullptr; }
  T* from_row(int64_t r) const { return data ? data + r * row : nullptr; }
  Rows<T> rows_from(int64_t r) const { return {from_row(r), row}; }
};

// From one position to the next.
inline int64_t row_of(const Tensor& t) {
  for (int64_t d = t.dim() - 1; d >= 2; --d)
    if (t.size(d) > 1) return t.stride(d);
  return t.size(0) > 1 ? t.stride(0) : t.size(1);
}

// The tensor itself where its strides are those of a slice of channels in this layout, else a copy.
inline Tensor sliceable(const Tensor& t, Layout layout) {
  const bool rows = layout == Layout::Rows;
  int64_t stride = rows ? row_of(t) : 1;
  bool fits = !rows || (stride >= t.size(1) && (t.size(1) == 1 || t.stride(1) == 1));
  auto next = [&](int64_t d) {
    fits = fits && (t.size(d) == 1 || t.stride(d) == stride);
    stride *= t.size(d);
  };
  for (int64_t d = t.dim() - 1; d >= 2; --d) next(d);
  next(rows ? 0 : 1);
  if (fits) return t;
  return rows && extent_of(t).positions > 1 ? t.contiguous(at::MemoryFormat::ChannelsLast)
                                            : t.contiguous();
}

// Channels of a sliceable tensor from `first` on; an undefined one has none.
template <typename T>
View<T> view_of(const Tensor& t, int64_t first = 0) {
  if (!t.defined()) return {nullptr, 0, 0, 0};
  return {static_cast<T*>(t.data_ptr()) + first * t.stride(1), t.stride(0), t.stride(1), row_of(t)};
}

inline Tensor empty_as(const Extent& e, const Tensor& like, int64_t channels) {
  auto sizes = like.sizes().vec();
  sizes[1] = channels;
  return at::empty(sizes, like.options(), e.format);
}

inline int64_t grain(int64_t each) {
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, each));
}

// run(n, c) for every run, or rows(first, count) for blocks of rows, in parallel.
template <typename Run, typename Rows>
void for_every(const Extent& e, int64_t channels, const Run& run, const Rows& rows) {
  if (e.layout == Layout::Rows) {
    at::parallel_for(0, e.rows(), grain(channels), [&](int64_t a, int64_t b) { rows(a, b - a); });
    return;
  }
  at::parallel_for(0, e.batch * channels, grain(e.positions), [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) run(i / channels, i % channels);
  });
}

// body(c) for every channel, in parallel.
template <typename Body>
void for_channels(const Extent& e, const Body& body) {
  at::parallel_for(0, e.channels, grain(e.rows()), [&](int64_t a, int64_t b) {
    for (int64_t c = a; c < b; ++c) body(c);
  });
}

// What rows(first, count, S*) makes of each of a fixed number of blocks, joined for every channel.
template <typename S, typename Rows>
std::vector<S> reduce_rows(const Extent& e, const Rows& rows) {
  std::vector<S> parts(CHUNKS * e.channels), all(e.channels);
  const int64_t step = (e.rows() + CHUNKS - 1) / CHUNKS;
  at::parallel_for(0, CHUNKS, grain(step * e.channels), [&](int64_t a, int64_t b) {
    for (int64_t chunk = a; chunk < b; ++chunk) {
      const int64_t first = std::min(e.rows(), chunk * step);
      rows(first, std::min(e.rows(), first + step) - first, parts.data() + chunk * e.channels);
    }
  });
  for (int64_t chunk = 0; chunk < CHUNKS; ++chunk)
    for (int64_t c = 0; c < e.channels; ++c) all[c].join(parts[chunk * e.channels + c]);
  return all;
}

// The same in both layouts; run(n, c, S&) takes in a run.
template <typename S, typename Run, typename Rows>
std::vector<S> reduce(const Extent& e, const Run& run, const Rows& rows) {
  if (e.layout == Layout::Rows) return reduce_rows<S>(e, rows);
  std::vector<S> all(e.channels);
  for_channels(e, [&](int64_t c) {
    for (int64_t n = 0; n < e.batch; ++n) run(n, c, all[c]);
  });
  return all;
}

}  // namespace pass_transfer
