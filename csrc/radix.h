// What a radix select needs on every device: unsigned keys in the order of the values, read digit
// by digit from the highest one.
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>
#include <cstring>

namespace pass_transfer {

// Both zeros have one key.
C10_HOST_DEVICE inline uint32_t key_of(float value) {
  uint32_t bits;
  const float plain = value == 0.0f ? 0.0f : value;
  memcpy(&bits, &plain, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

C10_HOST_DEVICE inline uint64_t key_of(double value) {
  uint64_t bits;
  const double plain = value == 0.0 ? 0.0 : value;
  memcpy(&bits, &plain, sizeof bits);
  return bits & 0x8000000000000000ull ? ~bits : bits | 0x8000000000000000ull;
}

template <typename Key>
constexpr int KEY_BITS = sizeof(Key) * 8;

// One digit of a key: `width` bits from bit `shift` on.
struct Digit {
  int shift, width;

  template <typename Key>
  C10_HOST_DEVICE int of(Key key) const {
    return static_cast<int>((key >> shift) & ((Key(1) << width) - 1));
  }
  // The bits above it.
  template <typename Key>
  C10_HOST_DEVICE Key above(Key key) const {
    const int low = shift + width;
    return low == KEY_BITS<Key> ? Key(0) : key >> low;
  }
};

// The digit of at most `most` bits below a shift; the first one is below KEY_BITS, none below 0.
C10_HOST_DEVICE inline Digit next_digit(int shift, int most) {
  const int width = shift < most ? shift : most;
  return {shift - width, width};
}

// The key of the last value that is taken, as far as it is known, and how many of the values that
// share these bits are still to be taken.
template <typename Key>
struct Threshold {
  Key prefix;
  int64_t left;

  // Goes on by a digit, whose values among those that share the prefix are counted.
  template <typename Count>
  C10_HOST_DEVICE void refine(const Count* counts, Digit digit) {
    int found = (1 << digit.width) - 1;
    while (found > 0 && static_cast<int64_t>(counts[found]) < left) {
      left -= static_cast<int64_t>(counts[found]);
      --found;
    }
    prefix = (prefix << digit.width) | static_cast<Key>(found);
  }
};

}  // namespace pass_transfer
