// When gathering channels costs less than the arithmetic it saves.
#pragma once

#include <cstdint>

namespace pass_transfer {

// Multiply-accumulates in the time it takes to move one element: a convolution does about
// 50 a nanosecond and thread, gathering one float about 1 a nanosecond.
constexpr int64_t MACS_PER_MOVED = 64;

// Whether to gather `kept` of `total` channels, each of which meets `others` channels over `area` kernel positions,
// at every `skip`-th position.
inline bool compaction_pays(int64_t total, int64_t kept, int64_t others, int64_t area, int64_t skip) {
  return (total - kept) * others * area > MACS_PER_MOVED * kept * skip;
}

}  // namespace pass_transfer
