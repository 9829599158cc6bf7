#include "model/adapter/spectrum.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ossature {
namespace {

double energy(std::span<const double> sigma) {
  return std::inner_product(sigma.begin(), sigma.end(), sigma.begin(), 0.0);
}

bool is_zero(std::span<const double> sigma) {
  return sigma.empty() || sigma.front() == 0.0;
}

}  // namespace

double frobenius_norm(std::span<const double> sigma) {
  return std::sqrt(energy(sigma));
}

double effective_rank(std::span<const double> sigma) {
  if (is_zero(sigma)) return 0.0;
  const double sum = std::accumulate(sigma.begin(), sigma.end(), 0.0);
  double entropy = 0.0;
  for (const double value : sigma) {
    const double p = value / sum;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  return std::exp(entropy);
}

double stable_rank(std::span<const double> sigma) {
  return is_zero(sigma) ? 0.0 : energy(sigma) / (sigma.front() * sigma.front());
}

double kept_energy(std::span<const double> sigma, std::int64_t k) {
  if (is_zero(sigma)) return 1.0;
  const auto count = std::min(sigma.size(), static_cast<std::size_t>(k));
  return energy(sigma.first(count)) / energy(sigma);
}

std::int64_t rank_for_energy(std::span<const double> sigma, double share) {
  std::int64_t k = 1;
  while (k < static_cast<std::int64_t>(sigma.size()) && kept_energy(sigma, k) < share) ++k;
  return k;
}

}  // namespace ossature
