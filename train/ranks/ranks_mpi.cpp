#include "train/ranks/ranks_mpi.h"

#ifndef OSSATURE_HAS_MPI

namespace ossature {

std::string transport_of_ranks() {
  return "";
}

std::unique_ptr<Ranks> join_mpi_ranks() {
  return nullptr;
}

}  // namespace ossature

#else

#include <mpi.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "train/failure/failure.h"

namespace ossature {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

/// Each rank lets its successor know that it lives.
constexpr auto kHeartbeatEvery = std::chrono::seconds(1);
/// Without one for so many seconds the predecessor is taken for lost, unless OSSATURE_LOST_AFTER says otherwise. A
/// machine that is short of memory stalls for seconds.
constexpr std::int64_t kLostAfter = 20;
constexpr int kExitLost = 6;
/// Between two looks at what is under way: the first ones soon, then rarely, since the processors belong to the
/// computation. 100 us are 12 KB at 1 Gbit/s; the system's buffers hold megabytes.
constexpr auto kFirstPause = microseconds(5);
constexpr auto kLongestPause = microseconds(100);
constexpr auto kIdlePause = milliseconds(50);
/// Counts are int in MPI 3.
constexpr std::size_t kMostBytes = std::size_t{1} << 30;
/// Of a sum, so that several are under way side by side and use both directions of the network; and of all of them,
/// since each is held twice.
constexpr std::size_t kMostSummedBytes = std::size_t{8} << 20;
constexpr std::size_t kMostCopiedBytes = std::size_t{64} << 20;

/// All calls of MPI come from one thread of its own (MPI_THREAD_FUNNELED is enough), which sleeps between looking at
/// what is under way: an MPI that waits spins, and the processors have other work.
class MpiRanks final : public Ranks {
 public:
  MpiRanks() {
    thread_ = std::thread([this] { serve(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_joined_; });
  }

  ~MpiRanks() override {
    {
      const std::lock_guard lock(mutex_);
      is_leaving_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  [[nodiscard]] std::int64_t rank() const override { return rank_; }
  [[nodiscard]] std::int64_t size() const override { return size_; }
  [[nodiscard]] std::int64_t local_rank() const override { return local_rank_; }
  [[nodiscard]] std::int64_t local_size() const override { return local_size_; }
  [[nodiscard]] const std::string& host_of(std::int64_t rank) const override {
    return hosts_[static_cast<std::size_t>(rank)];
  }

  void sum(std::span<double> values) override {
    const std::vector<double> own(values.begin(), values.end());
    begin_collective({[&](MPI_Request* request) {
      MPI_Iallreduce(own.data(), values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD,
                     request);
    }});
    wait();
  }

  /// From a copy: of a sum in place Open MPI knows but the tree (see join()).
  void begin_sum(std::span<float> values) override {
    constexpr std::size_t kMost = kMostSummedBytes / sizeof(float);
    for (std::size_t first = 0; first < values.size(); first += kMost) {
      const auto part = values.subspan(first, std::min(kMost, values.size() - first));
      const auto copy = std::make_shared<std::vector<float> >();
      const auto start = [part, copy](MPI_Request* request) {
        copy->assign(part.begin(), part.end());
        MPI_Iallreduce(copy->data(), part.data(), static_cast<int>(part.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                       request);
      };
      begin_collective({start, copy, part.size_bytes()});
    }
  }

  void wait() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return collectives_.empty() && messages_.empty() && num_under_way_ == 0; });
  }

  void begin_send(std::int64_t to, std::span<const std::byte> bytes, std::shared_ptr<const void> keeper) override {
    const int count = count_of(bytes.size());
    const auto start = [=](MPI_Request* request) {
      MPI_Isend(bytes.data(), count, MPI_BYTE, static_cast<int>(to), 0, MPI_COMM_WORLD, request);
    };
    begin(messages_, {start, std::move(keeper)});
  }

  [[nodiscard]] Receipt begin_receive(std::int64_t from, std::span<std::byte> bytes) override {
    const int count = count_of(bytes.size());
    return begin(messages_, {[=](MPI_Request* request) {
                   MPI_Irecv(bytes.data(), count, MPI_BYTE, static_cast<int>(from), 0, MPI_COMM_WORLD, request);
                 }});
  }

  void wait_for(const Receipt& receipt) override {
    const auto& work = *static_cast<const Work*>(receipt.get());
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return work.is_done; });
  }

  void broadcast(std::span<std::byte> bytes) override {
    for (std::size_t first = 0; first < bytes.size(); first += kMostBytes) {
      const auto part = bytes.subspan(first, std::min(kMostBytes, bytes.size() - first));
      begin_collective({[part](MPI_Request* request) {
        MPI_Ibcast(part.data(), static_cast<int>(part.size()), MPI_BYTE, 0, MPI_COMM_WORLD, request);
      }});
    }
    wait();
  }

  [[nodiscard]] std::vector<std::string> gather(const std::string& text) override {
    const int own = count_of(text.size());
    std::vector<int> sizes(static_cast<std::size_t>(size_)), offsets(sizes.size());
    begin_collective({[&](MPI_Request* request) {
      MPI_Iallgather(&own, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD, request);
    }});
    wait();
    for (std::size_t i = 1; i < sizes.size(); ++i) offsets[i] = offsets[i - 1] + sizes[i - 1];
    std::string all(static_cast<std::size_t>(offsets.back() + sizes.back()), '\0');
    begin_collective({[&](MPI_Request* request) {
      MPI_Iallgatherv(text.data(), own, MPI_CHAR, all.data(), sizes.data(), offsets.data(), MPI_CHAR, MPI_COMM_WORLD,
                      request);
    }});
    wait();
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < sizes.size(); ++i)
      texts.push_back(all.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(sizes[i])));
    return texts;
  }

  [[noreturn]] void abort(int exit_code) override {
    {
      const std::lock_guard lock(mutex_);
      abort_code_ = exit_code;
    }
    changed_.notify_all();
    std::this_thread::sleep_for(std::chrono::seconds(5));
    std::_Exit(exit_code);  // the launcher was lost too
  }

 private:
  struct Work {
    std::function<void(MPI_Request*)> start;
    std::shared_ptr<const void> keeper = nullptr;  // of what MPI reads, until it is done
    std::size_t copied_bytes = 0;                  // that this holds
    bool is_done = false;                          // guarded by mutex_
  };
  using Queue = std::deque<std::shared_ptr<Work> >;

  static int count_of(std::size_t bytes) {
    if (bytes > kMostBytes) throw std::length_error("a message of more than 1 GiB");
    return static_cast<int>(bytes);
  }

  Receipt begin(Queue& queue, Work work) {
    auto shared = std::make_shared<Work>(std::move(work));
    {
      const std::lock_guard lock(mutex_);
      queue.push_back(shared);
    }
    changed_.notify_all();
    return shared;
  }
  /// All ranks start them in the order of their queues, which is that of their calls.
  void begin_collective(Work work) { begin(collectives_, std::move(work)); }

  /// What may start now. A message never waits behind a sum: other ranks may come to that only after the message.
  Queue take_startable() {
    Queue taken = std::exchange(messages_, {});
    while (!collectives_.empty() && can_start(*collectives_.front())) {
      copied_bytes_ += collectives_.front()->copied_bytes;
      taken.push_back(collectives_.front());
      collectives_.pop_front();
    }
    num_under_way_ += taken.size();
    return taken;
  }
  [[nodiscard]] bool can_start(const Work& work) const {
    return copied_bytes_ == 0 || copied_bytes_ + work.copied_bytes <= kMostCopiedBytes;
  }

  void serve() {
    prctl(PR_SET_TIMERSLACK, 1000UL);  // nanoseconds; pauses are as short as they say
    join();
    auto pause = kFirstPause;
    while (true) {
      std::unique_lock lock(mutex_);
      if (abort_code_) MPI_Abort(MPI_COMM_WORLD, *abort_code_);
      if (is_leaving_ && collectives_.empty() && messages_.empty() && under_way_.empty()) break;
      const Queue starting = take_startable();
      lock.unlock();

      for (const auto& work : starting) {
        work->start(&under_way_.emplace_back(MPI_REQUEST_NULL));
        works_.push_back(work);
      }
      const bool has_ended = end_what_is_done();
      keep_in_touch();

      lock.lock();
      if (has_ended || !starting.empty()) pause = kFirstPause;
      const auto has_more = [&] {
        return !messages_.empty() || abort_code_ || (!collectives_.empty() && can_start(*collectives_.front()));
      };
      if (!under_way_.empty()) {
        changed_.wait_for(lock, pause, has_more);
        pause = std::min(2 * pause, kLongestPause);
      } else {
        changed_.wait_for(lock, kIdlePause, [&] { return has_more() || is_leaving_; });
      }
    }
    leave();
  }

  void join() {
    // Open MPI's own words for: who waits lets others compute; sums by halves, both directions of a link at once, where
    // it would send everything up a tree and then down again; no copies out of another process's memory, which
    // containers forbid; token files are read by child processes. What the user has set stays.
    ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    ::setenv("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "rabenseifner", 0);
    ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    ::setenv("OMPI_MCA_mpi_warn_on_fork", "0", 0);
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm local;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, &local_rank_);
    MPI_Comm_size(local, &local_size_);
    MPI_Comm_free(&local);
    MPI_Comm_dup(MPI_COMM_WORLD, &heartbeats_);

    std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
    int length = 0;
    MPI_Get_processor_name(name.data(), &length);
    std::vector<char> names(name.size() * static_cast<std::size_t>(size_));
    MPI_Allgather(name.data(), MPI_MAX_PROCESSOR_NAME, MPI_CHAR, names.data(), MPI_MAX_PROCESSOR_NAME, MPI_CHAR,
                  MPI_COMM_WORLD);
    for (std::size_t i = 0; i < static_cast<std::size_t>(size_); ++i) hosts_.emplace_back(&names[i * name.size()]);

    heard_ = Clock::now();
    const char* lost_after = std::getenv("OSSATURE_LOST_AFTER");
    lost_after_ = std::chrono::seconds(lost_after != nullptr ? std::max(2LL, std::atoll(lost_after)) : kLostAfter);
    if (size_ > 1) listen();
    const std::lock_guard lock(mutex_);
    is_joined_ = true;
    changed_.notify_all();
  }

  bool end_what_is_done() {
    if (under_way_.empty()) return false;
    std::vector<int> indices(under_way_.size());
    int num_done = 0;
    MPI_Testsome(static_cast<int>(under_way_.size()), under_way_.data(), &num_done, indices.data(),
                 MPI_STATUSES_IGNORE);
    if (num_done <= 0) return false;
    {
      const std::lock_guard lock(mutex_);
      for (int i = 0; i < num_done; ++i) {
        Work& work = *works_[static_cast<std::size_t>(indices[static_cast<std::size_t>(i)])];
        work.is_done = true;
        work.start = nullptr;  // which may keep a copy too
        work.keeper = nullptr;
        copied_bytes_ -= work.copied_bytes;
      }
      num_under_way_ -= static_cast<std::size_t>(num_done);
    }
    changed_.notify_all();
    std::erase(under_way_, MPI_REQUEST_NULL);
    std::erase_if(works_, [](const auto& work) { return work->is_done; });
    return true;
  }

  void listen() { MPI_Irecv(&heartbeat_in_, 1, MPI_CHAR, (rank_ + size_ - 1) % size_, 0, heartbeats_, &listening_); }

  /// Hears the predecessor and tells the successor, each a message of one byte, 'l' while the rank lives and 'b' as its
  /// last word. Ranks that are cut off from others each have one among them whose predecessor is beyond the cut.
  void keep_in_touch() {
    if (size_ == 1) return;
    int is_done = 0;
    const auto now = Clock::now();
    if (listening_ != MPI_REQUEST_NULL) {
      MPI_Test(&listening_, &is_done, MPI_STATUS_IGNORE);
      if (is_done != 0) {
        heard_ = now;
        if (heartbeat_in_ == 'l') listen();
      }
    }
    if (now - heard_ > lost_after_ && listening_ != MPI_REQUEST_NULL) {
      tell({kExitLost, name_of((rank_ + size_ - 1) % size_) + " has not been heard of for " +
                           std::to_string(lost_after_.count()) + " s; all ranks end. Go on with --resume"});
      MPI_Abort(MPI_COMM_WORLD, kExitLost);
    }
    MPI_Test(&telling_, &is_done, MPI_STATUS_IGNORE);
    if (is_done != 0 && now - told_ >= kHeartbeatEvery) {
      told_ = now;
      MPI_Isend(&heartbeat_out_, 1, MPI_CHAR, (rank_ + 1) % size_, 0, heartbeats_, &telling_);
    }
  }

  void leave() {
    if (size_ > 1) {
      MPI_Wait(&telling_, MPI_STATUS_IGNORE);
      heartbeat_out_ = 'b';
      MPI_Isend(&heartbeat_out_, 1, MPI_CHAR, (rank_ + 1) % size_, 0, heartbeats_, &telling_);
      told_ = Clock::now() + std::chrono::hours(24);
      int is_told = 0;
      while (listening_ != MPI_REQUEST_NULL || is_told == 0) {
        keep_in_touch();
        MPI_Test(&telling_, &is_told, MPI_STATUS_IGNORE);
        std::this_thread::sleep_for(milliseconds(1));
      }
    }
    MPI_Comm_free(&heartbeats_);
    MPI_Finalize();
  }

  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::vector<std::string> hosts_;

  std::mutex mutex_;  // guards what follows, down to the next comment
  std::condition_variable changed_;
  bool is_joined_ = false, is_leaving_ = false;
  std::optional<int> abort_code_;
  Queue collectives_, messages_;  // that have not started
  std::size_t copied_bytes_ = 0;  // of sums that are under way
  std::size_t num_under_way_ = 0;

  // Of the serving thread alone.
  std::vector<MPI_Request> under_way_;
  std::vector<std::shared_ptr<Work> > works_;  // of those
  MPI_Comm heartbeats_ = MPI_COMM_NULL;
  MPI_Request listening_ = MPI_REQUEST_NULL, telling_ = MPI_REQUEST_NULL;
  char heartbeat_in_ = 0, heartbeat_out_ = 'l';
  Clock::time_point heard_, told_;
  std::chrono::seconds lost_after_{kLostAfter};
  std::thread thread_;
};

}  // namespace

std::string transport_of_ranks() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);  // allowed before MPI_Init
  const std::string whole(text.data());
  return whole.substr(0, whole.find_first_of(",\n"));
}

std::unique_ptr<Ranks> join_mpi_ranks() {
  return std::make_unique<MpiRanks>();
}

}  // namespace ossature

#endif
