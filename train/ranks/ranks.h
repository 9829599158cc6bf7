// The processes that train one adapter together, and what they tell each other: sums, small texts, and in a pipeline
// what goes from layer to layer. No sample, no token and no weight of the base model goes from one to another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ossature {

/// The functions from sum() to gather() are collective unless they say otherwise: all ranks call the same ones in the
/// same order, each from one thread. Results are the same bits on every rank, and the same again whenever as many ranks
/// do the same.
class Ranks {
 public:
  Ranks() = default;
  virtual ~Ranks() = default;
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  [[nodiscard]] virtual std::int64_t rank() const = 0;
  [[nodiscard]] virtual std::int64_t size() const = 0;
  /// Of the ranks on this machine.
  [[nodiscard]] virtual std::int64_t local_rank() const = 0;
  [[nodiscard]] virtual std::int64_t local_size() const = 0;
  /// The machine that a rank is on.
  [[nodiscard]] virtual const std::string& host_of(std::int64_t rank) const = 0;
  /// "rank 3 on HOST".
  [[nodiscard]] std::string name_of(std::int64_t rank) const {
    return "rank " + std::to_string(rank) + " on " + host_of(rank);
  }
  [[nodiscard]] bool is_first() const { return rank() == 0; }

  /// Replaces each value by its sum over the ranks.
  virtual void sum(std::span<double> values) = 0;
  /// The same, while the caller does other work. `values` must stay, and stay untouched, until wait().
  virtual void begin_sum(std::span<float> values) = 0;
  /// Returns when all that was begun is done.
  virtual void wait() = 0;
  /// Not collective, as the next two: sends to a rank, while the caller does other work. Messages arrive in order.
  /// `keeper` owns the bytes, which must not change.
  virtual void begin_send(std::int64_t to, std::span<const std::byte> bytes, std::shared_ptr<const void> keeper) = 0;
  /// Receives a message of that size, in the order in which they are asked for. `bytes` must stay until it is there.
  using Receipt = std::shared_ptr<const void>;
  [[nodiscard]] virtual Receipt begin_receive(std::int64_t from, std::span<std::byte> bytes) = 0;
  virtual void wait_for(const Receipt& receipt) = 0;
  /// Replaces the bytes by those of the first rank.
  virtual void broadcast(std::span<std::byte> bytes) = 0;
  /// The texts of all ranks, by rank.
  [[nodiscard]] virtual std::vector<std::string> gather(const std::string& text) = 0;

  /// Not collective: ends every rank, this one too, whatever they are at. The launcher exits with `exit_code`.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

/// "Open MPI v4.1.4": what carries the ranks' sums; "" where this program was built without MPI.
[[nodiscard]] std::string transport_of_ranks();

/// A rank on its own.
[[nodiscard]] std::unique_ptr<Ranks> single_rank();

/// Joins the ranks that a launcher (mpirun, srun) started beside this one; without a launcher there is one. Once in a
/// process. Throws RecipeError if there are others and this program was built without MPI.
[[nodiscard]] std::unique_ptr<Ranks> join_ranks();

/// Runs `work`, which is not collective, on every rank. If it throws on any, the first rank tells the user what the
/// lowest of those threw, and all throw RankFailure. Where there is one rank it is `work()`.
void together(Ranks& ranks, const std::function<void()>& work);

/// Runs `work`, which is collective. What it throws ends all ranks, after the user has been told, with the exit code
/// that belongs to it: as RankFailure if `is_common` says that every rank throws it, else through abort(). Where there
/// is one rank it is `work()`.
void as_one(Ranks& ranks, const std::function<void()>& work,
            const std::function<bool(const std::exception&)>& is_common);

}  // namespace ossature
