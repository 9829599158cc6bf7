#include "train/ranks/ranks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "train/failure/errors.h"
#include "train/failure/failure.h"
#include "train/ranks/ranks_mpi.h"
#include "train/recipe/recipe.h"

namespace ossature {
namespace {

class SingleRank final : public Ranks {
 public:
  [[nodiscard]] std::int64_t rank() const override { return 0; }
  [[nodiscard]] std::int64_t size() const override { return 1; }
  [[nodiscard]] std::int64_t local_rank() const override { return 0; }
  [[nodiscard]] std::int64_t local_size() const override { return 1; }
  [[nodiscard]] const std::string& host_of(std::int64_t) const override { return host_; }
  void sum(std::span<double>) override {}
  void begin_sum(std::span<float>) override {}
  void wait() override {}
  void begin_send(std::int64_t, std::span<const std::byte>, std::shared_ptr<const void>) override {}
  [[nodiscard]] Receipt begin_receive(std::int64_t, std::span<std::byte>) override { return nullptr; }
  void wait_for(const Receipt&) override {}
  void broadcast(std::span<std::byte>) override {}
  [[nodiscard]] std::vector<std::string> gather(const std::string& text) override { return {text}; }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  std::string host_ = "this machine";
};

/// Set by Open MPI's mpirun; by PMIx, which Slurm's srun and others speak; by MPICH's mpirun and by srun --mpi=pmi2.
bool has_launcher() {
  constexpr std::array<const char*, 3> kVariables = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"};
  return std::any_of(kVariables.begin(), kVariables.end(),
                     [](const char* name) { return std::getenv(name) != nullptr; });
}

}  // namespace

std::unique_ptr<Ranks> single_rank() {
  return std::make_unique<SingleRank>();
}

std::unique_ptr<Ranks> join_ranks() {
  if (!has_launcher()) return single_rank();
  if (auto ranks = join_mpi_ranks()) return ranks;
  throw RecipeError(
      "a launcher started this program as one of several ranks, but it was built without MPI; expected a build with it "
      "(install an MPI, such as libopenmpi-dev, and build again), or a start without mpirun and srun");
}

void together(Ranks& ranks, const std::function<void()>& work) {
  if (ranks.size() == 1) return work();
  Failure failure{0, ""};
  try {
    work();
  } catch (const std::exception& error) {
    failure = describe_failure(error);
  }
  const std::vector<std::string> codes = ranks.gather(std::to_string(failure.exit_code));
  const auto failed = std::find_if(codes.begin(), codes.end(), [](const std::string& code) { return code != "0"; });
  if (failed == codes.end()) return;
  const auto lowest = failed - codes.begin();
  const std::vector<std::string> messages = ranks.gather(failure.message);
  if (ranks.is_first()) {
    const std::string& message = messages[static_cast<std::size_t>(lowest)];
    tell({0, lowest == 0 ? message : ranks.name_of(lowest) + ": " + message});
  }
  throw RankFailure(std::stoi(*failed));
}

void as_one(Ranks& ranks, const std::function<void()>& work,
            const std::function<bool(const std::exception&)>& is_common) {
  if (ranks.size() == 1) return work();
  try {
    work();
  } catch (const RankFailure&) {
    throw;
  } catch (const std::exception& error) {
    const Failure failure = describe_failure(error);
    if (is_common(error)) {
      if (ranks.is_first()) tell(failure);
      (void)ranks.gather("");  // the launcher ends all ranks when one of them has ended, so not before this was told
      throw RankFailure(failure.exit_code);
    }
    // Where all ranks come to the same error, the first ends the others before they say it again.
    if (!ranks.is_first()) std::this_thread::sleep_for(std::chrono::seconds(1));
    tell({failure.exit_code, ranks.name_of(ranks.rank()) + ": " + failure.message});
    ranks.abort(failure.exit_code);
  }
}

}  // namespace ossature
