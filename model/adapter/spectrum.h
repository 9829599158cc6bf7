// What the singular values of a matrix say about it. They are given in descending order, none negative.
#pragma once

#include <cstdint>
#include <span>

namespace ossature {

/// sqrt(sum sigma^2).
[[nodiscard]] double frobenius_norm(std::span<const double> sigma);

/// exp(-sum p ln p), p = sigma / sum sigma: from 1 to the rank; 0 for a zero matrix. Roy and Vetterli, "The effective
/// rank: a measure of effective dimensionality", EUSIPCO 2007.
[[nodiscard]] double effective_rank(std::span<const double> sigma);

/// sum sigma^2 / sigma_1^2: from 1 to the rank; 0 for a zero matrix. Rudelson and Vershynin, arXiv math/0503442.
[[nodiscard]] double stable_rank(std::span<const double> sigma);

/// Share of sum sigma^2 that the first `k` have; 1 for a zero matrix.
[[nodiscard]] double kept_energy(std::span<const double> sigma, std::int64_t k);

/// The least k, at least 1, whose kept_energy is at least `share`.
[[nodiscard]] std::int64_t rank_for_energy(std::span<const double> sigma, double share);

}  // namespace ossature
