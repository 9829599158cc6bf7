#include "data/prepare.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <future>
#include <memory>
#include <thread>

#include "data/harmony.h"
#include "data/token_file.h"

namespace ossature {
namespace {

/// Lines handled at once: at most so many, and about so many bytes.
constexpr std::size_t kBlockLines = 4096;
constexpr std::size_t kBlockBytes = 4 << 20;

struct Line {
  std::string text;
  std::string source;  // "chats.jsonl:12"
};

/// The non-empty lines of several files, one after the other.
class LineReader {
 public:
  explicit LineReader(std::vector<std::filesystem::path> files) : files_(std::move(files)) {}

  [[nodiscard]] std::vector<Line> next_block() {
    std::vector<Line> block;
    std::size_t bytes = 0;
    while (block.size() < kBlockLines && bytes < kBlockBytes) {
      if (!in_.is_open() && !open_next()) break;
      std::string text;
      if (!std::getline(in_, text)) {
        if (in_.bad()) throw DataError(path_.string() + ": cannot be read");
        in_.close();
        continue;
      }
      ++number_;
      if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
      bytes += text.size();
      block.push_back({std::move(text), path_.string() + ":" + std::to_string(number_)});
    }
    return block;
  }

 private:
  bool open_next() {
    if (file_ == files_.size()) return false;
    path_ = files_[file_++];
    number_ = 0;
    in_.clear();
    in_.open(path_, std::ios::binary);
    if (!in_ || std::filesystem::is_directory(path_))
      throw DataError(path_.string() + ": cannot be opened; expected a file of JSON lines");
    return true;
  }

  std::vector<std::filesystem::path> files_;
  std::size_t file_ = 0;
  std::filesystem::path path_;
  std::ifstream in_;
  std::int64_t number_ = 0;
};

RenderedSample render(const Line& line, const Harmony& harmony, std::optional<DataFormat> format) {
  try {
    const Sample sample = parse_sample(line.text, format);
    if (const auto* conversation = std::get_if<Conversation>(&sample)) return harmony.render(*conversation);
    return harmony.render_text(std::get<std::string>(sample));
  } catch (const DataError& error) {
    throw DataError(line.source + ": " + error.what());
  }
}

/// Renders a block on several threads. The first line that fails decides the error, whatever thread met it.
std::vector<RenderedSample> render_block(const std::vector<Line>& block, const Harmony& harmony,
                                         std::optional<DataFormat> format, int num_threads) {
  std::vector<RenderedSample> samples(block.size());
  std::vector<std::exception_ptr> failures(block.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < block.size(); i = next++) {
      try {
        samples[i] = render(block[i], harmony, format);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return samples;
}

/// A number in [0, 1) from the content of a line alone (FNV-1a), so a sample stays on its side whatever else is in the
/// files.
double share_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  hash ^= hash >> 32;
  return static_cast<double>(hash & 0xffffffffu) / 4294967296.0;
}

void count(const RenderedSample& sample, PrepareCounts& counts) {
  const auto learned =
      std::count_if(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0.0f; });
  ++counts.samples;
  counts.tokens += static_cast<std::int64_t>(sample.tokens.size());
  counts.learned_tokens += learned;
  counts.longest_sample = std::max(counts.longest_sample, static_cast<std::int64_t>(sample.tokens.size()));
  for (std::size_t i = 0; i < sample.learned_by_channel.size(); ++i) {
    counts.learned_by_channel[i] += sample.learned_by_channel[i];
  }
  if (learned == 0) ++counts.without_learned;
}

/// Writing over what is read would lose it.
void check_outputs(const PrepareOptions& options) {
  const bool has_validation = options.validation > 0.0;
  if (has_validation &&
      std::filesystem::weakly_canonical(options.validation_out) == std::filesystem::weakly_canonical(options.out)) {
    throw DataError(options.out.string() + ": named for both training and validation samples; give two names");
  }
  for (const auto& input : options.inputs) {
    std::error_code ignored;
    if (std::filesystem::equivalent(input, options.out, ignored) ||
        (has_validation && std::filesystem::equivalent(input, options.validation_out, ignored))) {
      throw DataError(input.string() + ": is both read and to be written; give the token file another name");
    }
  }
}

}  // namespace

PrepareSummary prepare(const PrepareOptions& options, const std::function<void(std::int64_t)>& progress) {
  check_outputs(options);
  const Harmony harmony(Tokenizer::load(options.tokenizer), options.date);
  const Tokenizer& tokenizer = harmony.tokenizer();
  const int num_threads =
      options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  TokenFileWriter train(options.out, tokenizer.vocab_size(), tokenizer.sha256());
  std::unique_ptr<TokenFileWriter> validation;
  if (options.validation > 0.0) {
    validation = std::make_unique<TokenFileWriter>(options.validation_out, tokenizer.vocab_size(), tokenizer.sha256());
  }
  PrepareSummary summary;
  LineReader reader(options.inputs);
  std::vector<Line> block, next;
  const auto render_next = [&] {
    next = reader.next_block();
    return std::async(std::launch::async, [&] { return render_block(next, harmony, options.format, num_threads); });
  };
  // One block is rendered while the one before it is written.
  for (auto rendered = render_next();;) {
    const std::vector<RenderedSample> samples = rendered.get();
    block.swap(next);
    if (block.empty()) break;
    rendered = render_next();
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const bool is_validation = validation && share_of(block[i].text) < options.validation;
      (is_validation ? *validation : train).add(samples[i].tokens, samples[i].loss_weights, block[i].source);
      count(samples[i], is_validation ? summary.validation : summary.train);
    }
    if (progress) progress(summary.train.samples + summary.validation.samples);
  }
  if (summary.train.samples == 0) {
    throw DataError("no sample for " + options.out.string() +
                    "; the inputs have no line that is not empty, or all went to validation");
  }
  train.finish();
  if (validation) validation->finish();
  return summary;
}

}  // namespace ossature
