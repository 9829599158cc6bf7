#include "train/ranks/processor_share.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

namespace ossature {
namespace {

/// Where a processor sits; processors of a core share what computes.
struct Place {
  int package = 0, core = 0, processor = 0;

  bool operator<(const Place& other) const {
    return std::tie(package, core, processor) < std::tie(other.package, other.core, other.processor);
  }
};

int read_number(const std::string& path) {
  int number = 0;
  std::ifstream(path) >> number;
  return number;
}

std::vector<Place> usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<Place> places;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &set)) continue;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/";
    places.push_back({read_number(topology + "physical_package_id"), read_number(topology + "core_id"), i});
  }
  std::sort(places.begin(), places.end());
  return places;
}

/// Open MPI binds each of two ranks to a core, more to a socket, unless it is told otherwise. A rank computes with a
/// thread a core, so that is not what anybody wants.
bool is_bound_by_default() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && std::getenv("OMPI_MCA_hwloc_base_binding_policy") == nullptr;
}

/// Whether the ranks of this machine may all use the same processors.
bool are_shared(Ranks& ranks, const std::vector<Place>& places) {
  std::string own;
  for (const Place& place : places) own += std::to_string(place.processor) + " ";
  const std::vector<std::string> all = ranks.gather(own);
  for (std::int64_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks.host_of(rank) == ranks.host_of(ranks.rank()) && all[static_cast<std::size_t>(rank)] != own) return false;
  }
  return true;
}

void stay_on(const std::vector<Place>& places) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const Place& place : places) CPU_SET(place.processor, &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

int take_share_of_processors(Ranks& ranks) {
  if (is_bound_by_default()) {
    cpu_set_t all;  // the system leaves out those that its control group forbids
    CPU_ZERO(&all);
    for (int i = 0; i < CPU_SETSIZE; ++i) CPU_SET(i, &all);
    sched_setaffinity(0, sizeof all, &all);
  }
  std::vector<Place> places = usable_processors();
  if (are_shared(ranks, places) && ranks.local_size() > 1) {
    const auto count = static_cast<std::int64_t>(places.size());
    const auto first = std::min(ranks.local_rank() * count / ranks.local_size(), count - 1);
    const auto last = std::max(first + 1, (ranks.local_rank() + 1) * count / ranks.local_size());
    places = {places.begin() + first, places.begin() + last};
    stay_on(places);
  }
  return static_cast<int>(places.size());
}

}  // namespace ossature
