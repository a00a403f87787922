// A convolution of stride 2 over an image of few channels (a network's stem) as one of stride 1
// over a quarter of the positions with four times the channels, which tensor cores are made for:
// position (2i + r, 2j + s) of channel c becomes channel (2r + s) C + c of position (i, j), and the
// weight's taps are dealt out alike.
#pragma once

#include "arithmetic.h"

namespace pass_transfer {

struct SpaceToDepth {
  int64_t ins;                             // channels of the image
  int64_t channels;                        // of the deep one, a multiple of 8
  std::vector<int64_t> off, taps, before;  // by dimension: empty taps in front, taps of the deep
                                           // weight, deep positions in front of the image

  SpaceToDepth(const Tensor& weight, const Window& w)
      : ins(weight.size(1)), channels((4 * weight.size(1) + 7) / 8 * 8) {
    for (int64_t d = 0; d < 2; ++d) {
      off.push_back(w.padding[d] % 2);
      taps.push_back((weight.size(2 + d) + off[d] + 1) / 2);
      before.push_back((w.padding[d] + off[d]) / 2);
    }
  }

  // (O, ins, kh, kw) as (O, channels, taps, taps).
  Tensor weight(const Tensor& weight) const {
    const int64_t outs = weight.size(0);
    auto behind = [&](int64_t d) { return 2 * taps[d] - weight.size(2 + d) - off[d]; };
    const Tensor even = at::constant_pad_nd(weight, {off[1], behind(1), off[0], behind(0)}, 0);
    const Tensor dealt = even.reshape({outs, ins, taps[0], 2, taps[1], 2})
                             .permute({0, 3, 5, 1, 2, 4})
                             .reshape({outs, 4 * ins, taps[0], taps[1]});
    return at::constant_pad_nd(dealt, {0, 0, 0, 0, 0, channels - 4 * ins}, 0)
        .contiguous(at::MemoryFormat::ChannelsLast);
  }
};

// Whether a convolution is better done so.
inline bool by_space_to_depth(const Tensor& x, const Tensor& weight, const Window& w) {
  const bool half = x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
  return x.is_cuda() && half && x.numel() > 0 && w.groups == 1 && weight.size(1) <= 4 &&
         weight.size(2) > 1 && weight.size(3) > 1 && w.stride == std::vector<int64_t>{2, 2} &&
         w.dilation == std::vector<int64_t>{1, 1};
}

}  // namespace pass_transfer
