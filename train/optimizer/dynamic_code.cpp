#include "train/optimizer/dynamic_code.h"

#include <cmath>

namespace ossature::dynamic_code {
namespace {

/// Level `code` of a code of n bits: code + 1 = 2^k (1 + f) stands for 10^(k - n) (1 + 9 f).
double level(int code, int n) {
  const int k = static_cast<int>(std::log2(code + 1));
  const double f = (code + 1) / std::exp2(k) - 1.0;
  return k == n ? 1.0 : kPowers[static_cast<std::size_t>(n - k)] * (1.0 + 9.0 * f);
}

Levels make_levels() {
  Levels result{};
  for (int code = 0; code < 256; ++code) {
    const int size = code % 128;
    const double first = size == 0 ? 0.0 : level(size, 7);
    const double root = level(code, 8);
    result.first[static_cast<std::size_t>(code)] = static_cast<float>(code < 128 ? first : -first);
    result.second[static_cast<std::size_t>(code)] = static_cast<float>(root * root);
  }
  result.second.back() = 2.0f;
  return result;
}

}  // namespace

const Levels& levels() {
  static const Levels made = make_levels();
  return made;
}

}  // namespace ossature::dynamic_code
