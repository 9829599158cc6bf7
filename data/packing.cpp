#include "data/packing.h"

#include <algorithm>
#include <map>

namespace ossature {

std::vector<Pack> pack_samples(std::span<const std::int64_t> samples, std::span<const std::int64_t> lengths,
                               std::int64_t capacity) {
  std::vector<std::int64_t> order(samples.begin(), samples.end());
  const auto length = [&](std::int64_t sample) { return lengths[static_cast<std::size_t>(sample)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });
  std::vector<Pack> packs;
  std::multimap<std::int64_t, std::size_t> open;  // room left -> pack
  for (const std::int64_t sample : order) {
    const auto fit = open.lower_bound(length(sample));
    std::size_t pack = packs.size();
    std::int64_t room = capacity;
    if (fit == open.end()) {
      packs.emplace_back();
    } else {
      room = fit->first;
      pack = fit->second;
      open.erase(fit);
    }
    packs[pack].push_back(sample);
    if (room > length(sample)) open.emplace(room - length(sample), pack);
  }
  return packs;
}

}  // namespace ossature
