#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/packing.h"
#include "data/sampler.h"

namespace ossature {
namespace {

constexpr std::size_t kBatchesAhead = 4;

Batch read_samples(const TokenFileReader& file, const std::vector<std::int64_t>& samples) {
  Batch batch;
  const auto offsets = file.sample_offsets();
  batch.sample_offsets.push_back(0);
  for (const std::int64_t sample : samples) {
    const auto first = offsets[static_cast<std::size_t>(sample)];
    const auto count = static_cast<std::size_t>(offsets[static_cast<std::size_t>(sample) + 1] - first);
    const std::size_t before = batch.tokens.size();
    batch.tokens.resize(before + count);
    batch.loss_weights.resize(before + count);
    file.read_tokens(first, std::span(batch.tokens).subspan(before));
    file.read_loss_weights(first, std::span(batch.loss_weights).subspan(before));
    batch.sample_offsets.push_back(static_cast<std::int64_t>(batch.tokens.size()));
    batch.sample_ids.push_back(sample);
  }
  return batch;
}

/// The rows of each epoch.
class Plan {
 public:
  Plan(std::shared_ptr<const TokenFileReader> file, const LoaderOptions& options)
      : file_(std::move(file)), options_(options) {
    const auto offsets = file_->sample_offsets();
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const auto length = offsets[s + 1] - offsets[s];
      lengths_.push_back(length);
      num_tokens_ += length;
      if (length > 0) samples_.push_back(static_cast<std::int64_t>(s));
      if (length > options.sequence_length) {
        const auto sample = static_cast<std::int64_t>(s);
        throw DataError(file_->path().string() + ": " + file_->sample_source(sample) + " has " +
                        std::to_string(length) + " tokens, data.sequence_length is " +
                        std::to_string(options.sequence_length) +
                        "; raise it, or prepare the data with shorter samples");
      }
    }
    if (samples_.empty())
      throw DataError(file_->path().string() + ": holds no token; prepare it from files that have some");
    num_rows_ = static_cast<std::int64_t>(rows_of(0).size());
  }

  [[nodiscard]] const TokenFileReader& file() const { return *file_; }
  [[nodiscard]] std::int64_t batches_in_epoch() const {
    return (num_rows_ + options_.micro_batch_size - 1) / options_.micro_batch_size;
  }
  [[nodiscard]] double efficiency() const {
    return static_cast<double>(num_tokens_) / static_cast<double>(num_rows_ * options_.sequence_length);
  }

  /// The samples of each batch of `epoch`.
  [[nodiscard]] std::vector<std::vector<std::int64_t>> batches_of(std::int64_t epoch) const {
    const std::vector<Pack> rows = rows_of(epoch);
    std::vector<std::vector<std::int64_t>> batches;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % static_cast<std::size_t>(options_.micro_batch_size) == 0) batches.emplace_back();
      batches.back().insert(batches.back().end(), rows[i].begin(), rows[i].end());
    }
    return batches;
  }

 private:
  [[nodiscard]] std::vector<Pack> rows_of(std::int64_t epoch) const {
    std::vector<std::int64_t> samples = samples_;
    if (options_.shuffle) {
      const auto order = shuffled_order(static_cast<std::int64_t>(samples.size()), options_.seed, epoch);
      for (std::size_t i = 0; i < samples.size(); ++i) samples[i] = samples_[static_cast<std::size_t>(order[i])];
    }
    std::vector<Pack> rows;
    if (!options_.packing) {
      for (const auto sample : samples) rows.push_back({sample});
      return rows;
    }
    rows = pack_samples(samples, lengths_, options_.sequence_length);
    for (Pack& row : rows) std::sort(row.begin(), row.end());
    if (!options_.shuffle) {
      std::sort(rows.begin(), rows.end());
      return rows;
    }
    // Packing has sorted by length; training should not see long rows first.
    const auto order = shuffled_order(static_cast<std::int64_t>(rows.size()), ~options_.seed, epoch);
    std::vector<Pack> mixed(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) mixed[i] = std::move(rows[static_cast<std::size_t>(order[i])]);
    return mixed;
  }

  std::shared_ptr<const TokenFileReader> file_;
  LoaderOptions options_;
  std::vector<std::int64_t> lengths_;
  std::vector<std::int64_t> samples_;  // those that have tokens
  std::int64_t num_tokens_ = 0;
  std::int64_t num_rows_ = 0;
};

}  // namespace

class Loader::Thread {
 public:
  Thread(std::shared_ptr<const TokenFileReader> file, const LoaderOptions& options) : plan_(std::move(file), options) {}
  ~Thread() { stop(); }

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] LoaderPosition position() const { return position_; }

  void seek(LoaderPosition position) {
    stop();
    if (position.batch >= plan_.batches_in_epoch()) position = {position.epoch + 1, 0};
    position_ = position;
  }

  Batch next() {
    if (!worker_.joinable()) start();
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return !batches_.empty() || failure_; });
    if (batches_.empty()) std::rethrow_exception(failure_);
    Batch batch = std::move(batches_.front());
    batches_.pop_front();
    wanted_.notify_one();
    if (++position_.batch == plan_.batches_in_epoch()) position_ = {position_.epoch + 1, 0};
    return batch;
  }

 private:
  void start() {
    stopping_ = false;
    failure_ = nullptr;
    worker_ = std::thread([this, from = position_] { read(from); });
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wanted_.notify_all();
    if (worker_.joinable()) worker_.join();
    batches_.clear();
  }

  void read(LoaderPosition position) {
    try {
      for (;; position = {position.epoch + 1, 0}) {
        const auto batches = plan_.batches_of(position.epoch);
        for (auto i = static_cast<std::size_t>(position.batch); i < batches.size(); ++i) {
          Batch batch = read_samples(plan_.file(), batches[i]);
          std::unique_lock lock(mutex_);
          wanted_.wait(lock, [&] { return stopping_ || batches_.size() < kBatchesAhead; });
          if (stopping_) return;
          batches_.push_back(std::move(batch));
          ready_.notify_one();
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      ready_.notify_one();
    }
  }

  Plan plan_;
  LoaderPosition position_;
  std::mutex mutex_;
  std::condition_variable ready_, wanted_;
  std::deque<Batch> batches_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::thread worker_;
};

Loader::Loader(std::shared_ptr<const TokenFileReader> file, LoaderOptions options)
    : thread_(std::make_unique<Thread>(std::move(file), options)) {}
Loader::~Loader() = default;
std::int64_t Loader::batches_in_epoch() const {
  return thread_->plan().batches_in_epoch();
}
double Loader::packing_efficiency() const {
  return thread_->plan().efficiency();
}
Batch Loader::next() {
  return thread_->next();
}
LoaderPosition Loader::position() const {
  return thread_->position();
}
void Loader::seek(LoaderPosition position) {
  thread_->seek(position);
}

SequentialReader::SequentialReader(std::shared_ptr<const TokenFileReader> file, std::int64_t max_tokens)
    : file_(std::move(file)), max_tokens_(max_tokens) {}

std::optional<Batch> SequentialReader::next() {
  const auto offsets = file_->sample_offsets();
  std::vector<std::int64_t> samples;
  std::int64_t count = 0;
  for (; sample_ < file_->num_samples(); ++sample_) {
    const auto s = static_cast<std::size_t>(sample_);
    const auto length = offsets[s + 1] - offsets[s];
    if (!samples.empty() && count + length > max_tokens_) break;
    samples.push_back(sample_);
    count += length;
  }
  if (samples.empty()) return std::nullopt;
  return read_samples(*file_, samples);
}

}  // namespace ossature
