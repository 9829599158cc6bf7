#include "data/batches/loader.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/batches/epoch_plan.h"

namespace ossature {
namespace {

Batch read_samples(const EpochPlan& plan, const std::vector<std::int32_t>& samples) {
  Batch batch;
  batch.sample_offsets.push_back(0);
  for (const std::int32_t sample : samples) {
    const auto [file, id] = plan.place(sample);
    const auto offsets = plan.files()[file].file->sample_offsets().subspan(static_cast<std::size_t>(id), 2);
    batch.sample_offsets.push_back(batch.sample_offsets.back() + offsets[1] - offsets[0]);
    batch.sample_ids.push_back(id);
    batch.sample_files.push_back(static_cast<std::int32_t>(file));
  }
  batch.tokens.resize(static_cast<std::size_t>(batch.sample_offsets.back()));
  batch.loss_weights.resize(batch.tokens.size());
  for (std::size_t s = 0; s < samples.size(); ++s) {
    const TokenFileReader& file = *plan.files()[static_cast<std::size_t>(batch.sample_files[s])].file;
    const std::int64_t first = file.sample_offsets()[static_cast<std::size_t>(batch.sample_ids[s])];
    const auto begin = static_cast<std::size_t>(batch.sample_offsets[s]);
    const auto count = static_cast<std::size_t>(batch.sample_offsets[s + 1]) - begin;
    file.read_tokens(first, std::span(batch.tokens).subspan(begin, count));
    file.read_loss_weights(first, std::span(batch.loss_weights).subspan(begin, count));
  }
  return batch;
}

}  // namespace

/// Workers take the next batch's description in turn, read it side by side, and leave it in its place in the queue.
class Loader::Threads {
 public:
  Threads(std::vector<WeightedFile> files, const LoaderOptions& options)
      : options_(options),
        plan_(std::move(files), {options.sequence_length, options.packing, options.shuffle, options.seed}) {}
  ~Threads() { stop(); }

  [[nodiscard]] LoaderPosition position() const { return position_; }

  [[nodiscard]] std::int64_t batches_of(std::int64_t rows) const {
    return (rows + options_.micro_batch_size - 1) / options_.micro_batch_size;
  }
  [[nodiscard]] EpochSize size_of(std::int64_t epoch) const {
    // The samples are gone through for it, and the same is asked for again and again.
    if (plan_.is_even()) epoch = 0;
    if (sized_epoch_ != epoch) {
      size_ = plan_.size_of(epoch);
      sized_epoch_ = epoch;
    }
    return size_;
  }
  [[nodiscard]] double efficiency() const {
    const EpochSize size = size_of(position_.epoch);
    return size.rows == 0
               ? 1.0
               : static_cast<double>(size.tokens) / static_cast<double>(size.rows * options_.sequence_length);
  }
  [[nodiscard]] std::int64_t batches_in(double epochs) const {
    if (plan_.is_even()) {
      return std::max<std::int64_t>(1, std::llround(static_cast<double>(batches_of(size_of(0).rows)) * epochs));
    }
    std::int64_t batches = 0;
    const auto whole = static_cast<std::int64_t>(std::floor(epochs));
    for (std::int64_t epoch = 0; epoch < whole; ++epoch) batches += batches_of(size_of(epoch).rows);
    const double rest = epochs - static_cast<double>(whole);
    if (rest > 0) batches += std::llround(static_cast<double>(batches_of(size_of(whole).rows)) * rest);
    return std::max<std::int64_t>(1, batches);
  }

  [[nodiscard]] LoaderPosition advanced(LoaderPosition from, std::int64_t batches) const {
    while (batches > 0) {
      const std::int64_t left = batches_of(size_of(from.epoch).rows) - from.batch;
      if (batches < left) return {from.epoch, from.batch + batches};
      batches -= left;
      from = {from.epoch + 1, 0};
    }
    return from;
  }

  void seek(LoaderPosition position) {
    stop();
    if (position.batch > 0 && position.batch >= batches_of(size_of(position.epoch).rows)) {
      position = {position.epoch + 1, 0};
    }
    position_ = position;
  }

  Batch next() {
    if (workers_.empty()) start();
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return !queue_.empty() && queue_.front().is_ready; });
    Slot& slot = queue_.front();
    if (slot.failure) std::rethrow_exception(slot.failure);
    Batch batch = std::move(slot.batch);
    position_ = slot.after;
    queue_.pop_front();
    wanted_.notify_one();
    return batch;
  }

 private:
  struct Slot {
    bool is_ready = false;
    Batch batch;
    LoaderPosition after;
    std::exception_ptr failure;
  };

  void start() {
    is_stopping_ = false;
    upcoming_ = position_;
    upcoming_in_step_ = 0;
    for (std::int64_t i = 0; i < options_.num_workers; ++i) workers_.emplace_back([this] { work(); });
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    wanted_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    queue_.clear();
  }

  void work() {
    std::vector<std::int32_t> samples;
    while (Slot* slot = take_next(samples)) {
      Batch batch;
      std::exception_ptr failure = slot->failure;
      try {
        if (!failure) batch = read_samples(plan_, samples);
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      slot->batch = std::move(batch);
      slot->failure = failure;
      slot->is_ready = true;
      ready_.notify_one();
    }
  }

  /// The place in the queue of the next batch, and the samples that belong there; nullptr when stopping. Only one
  /// worker is here at a time; the others read, from the files only, so the plan may change.
  Slot* take_next(std::vector<std::int32_t>& samples) {
    const std::lock_guard turn(turn_);
    {
      std::unique_lock lock(mutex_);
      const auto batches_ahead = static_cast<std::size_t>(2 + 2 * options_.num_workers);
      wanted_.wait(lock, [&] { return is_stopping_ || queue_.size() < batches_ahead; });
      if (is_stopping_) return nullptr;
    }
    Slot made;
    samples.clear();
    try {
      describe_next(samples);
      made.after = upcoming_;
    } catch (...) {
      made.failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    return &queue_.emplace_back(std::move(made));
  }

  void describe_next(std::vector<std::int32_t>& samples) {
    make_plan();
    while (upcoming_in_step_ % options_.num_ranks != options_.rank) {
      pass_one();
      make_plan();
    }
    const std::int64_t first = upcoming_.batch * options_.micro_batch_size;
    const std::int64_t end = std::min(first + options_.micro_batch_size, plan_.num_rows());
    for (std::int64_t row = first; row < end; ++row) plan_.append_row(row, samples);
    pass_one();
  }

  /// Of the epoch that the upcoming batch is in.
  void make_plan() {
    if (plan_.epoch() != upcoming_.epoch) plan_.make(upcoming_.epoch);
    while (plan_.num_rows() == 0) {  // small weights leave epochs empty
      upcoming_ = {upcoming_.epoch + 1, 0};
      plan_.make(upcoming_.epoch);
    }
  }

  void pass_one() {
    if (++upcoming_.batch >= batches_of(plan_.num_rows())) upcoming_ = {upcoming_.epoch + 1, 0};
    upcoming_in_step_ = (upcoming_in_step_ + 1) % options_.batches_per_step;
  }

  LoaderOptions options_;
  EpochPlan plan_;
  mutable std::int64_t sized_epoch_ = -1;  // that size_ is of
  mutable EpochSize size_;
  LoaderPosition position_;
  std::mutex turn_;          // guards plan_ and upcoming_
  LoaderPosition upcoming_;  // of the batch that is described next
  std::int64_t upcoming_in_step_ = 0;
  std::mutex mutex_;  // guards what follows
  std::condition_variable ready_, wanted_;
  std::deque<Slot> queue_;
  bool is_stopping_ = false;
  std::vector<std::thread> workers_;
};

Loader::Loader(std::vector<WeightedFile> files, const LoaderOptions& options)
    : threads_(std::make_unique<Threads>(std::move(files), options)) {}
Loader::Loader(std::shared_ptr<const TokenFileReader> file, const LoaderOptions& options)
    : Loader(std::vector<WeightedFile>{{std::move(file), 1.0}}, options) {}
Loader::~Loader() = default;
EpochSize Loader::epoch_size() const {
  return threads_->size_of(position().epoch);
}
std::int64_t Loader::batches_in_epoch() const {
  return threads_->batches_of(epoch_size().rows);
}
std::int64_t Loader::batches_in(double epochs) const {
  return threads_->batches_in(epochs);
}
double Loader::packing_efficiency() const {
  return threads_->efficiency();
}
Batch Loader::next() {
  return threads_->next();
}
LoaderPosition Loader::position() const {
  return threads_->position();
}
LoaderPosition Loader::advanced(LoaderPosition from, std::int64_t batches) const {
  return threads_->advanced(from, batches);
}
void Loader::seek(LoaderPosition position) {
  threads_->seek(position);
}

}  // namespace ossature
