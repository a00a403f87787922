// When gathering channels, or weights, costs less than the arithmetic it saves.
#pragma once

#include <cstdint>

namespace pass_transfer {

// Multiply-accumulates in the time it takes to move one element: a convolution does about
// 50 a nanosecond and thread, gathering one float about 1 a nanosecond.
constexpr int64_t MACS_PER_MOVED = 64;

// Whether to gather `kept` of `total` channels, each of which meets `others` channels over `area`
// kernel positions, at every `skip`-th position.
inline bool compaction_pays(int64_t total, int64_t kept, int64_t others, int64_t area,
                            int64_t skip) {
  return (total - kept) * others * area > MACS_PER_MOVED * kept * skip;
}

// Whether to gather a weight's outputs and inputs (`outs` of `all_outs`, `ins` of `all_ins`, each
// over `area` kernel positions) for so many positions of inputs and outputs, rather than put the
// activations' channels in their places and use all of the weight. Where positions are few, as in
// linear layers, the weight is most of what there is to move.
inline bool gathering_weights_pays(int64_t all_ins, int64_t ins, int64_t all_outs, int64_t outs,
                                   int64_t area, int64_t in_positions, int64_t out_positions) {
  const int64_t moved = ins * outs * area - in_positions * all_ins - out_positions * all_outs;
  return out_positions * area * (all_ins * all_outs - ins * outs) >= MACS_PER_MOVED * moved;
}

}  // namespace pass_transfer
