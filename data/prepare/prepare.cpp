#include "data/prepare/prepare.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>
#include <thread>

#include "data/prepare/lint.h"
#include "data/prepare/ordered_work.h"
#include "data/token_file/token_file.h"

namespace ossature {
namespace {

/// Records handled at once: at most so many, and about so many bytes.
constexpr std::size_t kBlockRecords = 4096;
constexpr std::size_t kBlockBytes = 1 << 20;
/// Text between reading and writing: at most about so much, if it is more than one block.
constexpr std::size_t kBytesUnderWay = 32 << 20;

/// Records, and all that is needed to render them.
struct Block {
  std::vector<Record> records;
  std::shared_ptr<const SampleParser> parser;
  std::int64_t bytes_done = 0, bytes_total = 0;  // of the inputs, behind these records
};

/// What a block becomes.
struct Rendered {
  explicit Rendered(const HarmonyTokens& tokens) : summary(tokens) {}

  struct Part {
    std::vector<RenderedSample> samples;
    std::string place;
    SampleLint lint;
    bool is_validation = false;
  };
  std::vector<Part> parts;
  PrepareSummary summary;
  std::exception_ptr failure;  // met behind these parts
  std::int64_t bytes_done = 0, bytes_total = 0;
};

/// Reads blocks; by one thread at a time.
class BlockReader {
 public:
  explicit BlockReader(const PrepareOptions& options)
      : records_(options.inputs, options.records), parser_(options.format) {}

  /// The next records; none at the end.
  [[nodiscard]] Block next() {
    Block block;
    block.records = records_.next_block(kBlockRecords, kBlockBytes);
    block.bytes_done = records_.bytes_done();
    block.bytes_total = records_.bytes_total();
    parser_.detect(block.records);
    block.parser = std::make_shared<const SampleParser>(parser_);  // others still parse with what was known before
    return block;
  }

 private:
  RecordReader records_;
  SampleParser parser_;
};

/// FNV-1a of what a record says.
class ContentHash {
 public:
  void add(std::string_view text) {
    for (const char c : text) add(static_cast<unsigned char>(c));
    add(0xff);  // no byte of UTF-8: it keeps texts apart
  }
  void add(const Conversation& conversation) {
    for (const Message& message : conversation.messages) {
      add(message.role);
      add(message.content.value_or(""));
      add(message.thinking.value_or(""));
      add(message.channel);
      add(message.recipient);
      for (const ContentPart& part : message.parts) {
        if (const auto* text = std::get_if<std::string>(&part)) add(*text);
        if (const auto* developer = std::get_if<DeveloperContent>(&part)) add(developer->instructions.value_or(""));
      }
      if (!message.tool_call) continue;
      add(message.tool_call->name);
      add(message.tool_call->arguments);
    }
  }
  /// In [0, 1).
  [[nodiscard]] double share() const {
    const std::uint64_t mixed = (hash_ ^ hash_ >> 32) * 0x9e3779b97f4a7c15u;
    return static_cast<double>(mixed >> 11) / static_cast<double>(std::uint64_t{1} << 53);
  }

 private:
  void add(unsigned char byte) { hash_ = (hash_ ^ byte) * 0x100000001b3u; }
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

double share_of(const Sample& sample) {
  ContentHash hash;
  if (const auto* conversation = std::get_if<Conversation>(&sample)) {
    hash.add(*conversation);
  } else if (const auto* text = std::get_if<std::string>(&sample)) {
    hash.add(*text);
  } else {
    hash.add(std::get<HarmonyText>(sample).text);
  }
  return hash.share();
}

/// Renders records; used by several threads at once.
class Renderer {
 public:
  explicit Renderer(const PrepareOptions& options)
      : options_(options),
        harmony_(Tokenizer::load(options.tokenizer), options.harmony),
        tokens_(HarmonyTokens::of(harmony_.tokenizer())),
        limit_(harmony_, options.length) {}

  [[nodiscard]] const Tokenizer& tokenizer() const { return harmony_.tokenizer(); }
  [[nodiscard]] const HarmonyTokens& tokens() const { return tokens_; }

  [[nodiscard]] Rendered operator()(const Block& block) const {
    Rendered result(tokens_);
    result.bytes_done = block.bytes_done;
    result.bytes_total = block.bytes_total;
    for (const Record& record : block.records) {
      ++result.summary.records;
      try {
        render(record, *block.parser, result);
      } catch (const DataError& error) {
        if (!options_.skip_errors) {
          result.failure = std::current_exception();
          break;
        }
        result.summary.skipped.add(error.what());
      }
    }
    return result;
  }

 private:
  void render(const Record& record, const SampleParser& parser, Rendered& result) const {
    const Sample sample = parser.parse(record);
    Rendered::Part part;
    part.place = record.place();
    part.is_validation = options_.validation > 0.0 && share_of(sample) < options_.validation;
    std::vector<RenderedSample> whole = render(sample, part.place);
    part.lint = lint_of(sample, whole);
    LengthReport length;
    for (RenderedSample& rendered : whole) {
      limit_.apply(std::move(rendered), std::holds_alternative<std::string>(sample), part.place, part.samples, length);
    }
    result.summary.length.append(length);
    TokenStatistics& statistics = part.is_validation ? result.summary.validation : result.summary.train;
    for (const RenderedSample& rendered : part.samples) {
      statistics.add(rendered.tokens, rendered.loss_weights);
    }
    result.parts.push_back(std::move(part));
  }

  [[nodiscard]] SampleLint lint_of(const Sample& sample, const std::vector<RenderedSample>& rendered) const {
    if (const auto* conversation = std::get_if<Conversation>(&sample)) {
      return lint(*conversation, rendered, options_.harmony);
    }
    if (const auto* text = std::get_if<HarmonyText>(&sample)) return lint_harmony_text(text->text, rendered);
    return lint_text(std::get<std::string>(sample), rendered.front());
  }

  [[nodiscard]] std::vector<RenderedSample> render(const Sample& sample, const std::string& place) const {
    try {
      if (const auto* conversation = std::get_if<Conversation>(&sample)) return harmony_.render(*conversation);
      if (const auto* text = std::get_if<HarmonyText>(&sample)) return harmony_.render_harmony_text(text->text);
      std::vector<RenderedSample> one;
      one.push_back(harmony_.render_text(std::get<std::string>(sample)));
      return one;
    } catch (const DataError& error) {
      throw DataError(place + ": " + error.what());
    }
  }

  const PrepareOptions& options_;
  Harmony harmony_;
  HarmonyTokens tokens_;
  LengthLimit limit_;
};

/// Takes what was rendered in the order of the records; by one thread at a time.
class Writer {
 public:
  Writer(const PrepareOptions& options, const Renderer& renderer,
         const std::function<void(const PrepareProgress&)>& progress)
      : progress_(progress),
        train_(options.out, renderer.tokenizer().vocab_size(), renderer.tokenizer().sha256()),
        summary_(renderer.tokens()) {
    if (options.validation > 0.0) {
      validation_.emplace(options.validation_out, renderer.tokenizer().vocab_size(), renderer.tokenizer().sha256());
    }
  }

  void write(const Rendered& rendered) {
    for (const Rendered::Part& part : rendered.parts) {
      lint_.add(part.lint, part.place);
      for (const RenderedSample& sample : part.samples) {
        (part.is_validation ? *validation_ : train_).add(sample.tokens, sample.loss_weights, part.place);
      }
    }
    if (rendered.failure) std::rethrow_exception(rendered.failure);
    const PrepareSummary& s = rendered.summary;
    summary_.train.merge(s.train);
    summary_.validation.merge(s.validation);
    summary_.records += s.records;
    summary_.skipped.append(s.skipped);
    summary_.length.append(s.length);
    if (progress_) {
      progress_({rendered.bytes_done, rendered.bytes_total, summary_.train.samples() + summary_.validation.samples(),
                 summary_.train.total().tokens + summary_.validation.total().tokens});
    }
  }

  PrepareSummary finish(const std::filesystem::path& out) {
    if (summary_.train.samples() == 0) {
      throw DataError("no sample for " + out.string() + ": " + reason() + "; name inputs that have some");
    }
    train_.finish();
    if (validation_) validation_->finish();
    summary_.lint = lint_.findings();
    return std::move(summary_);
  }

 private:
  [[nodiscard]] std::string reason() const {
    if (summary_.records == 0) return "the inputs are empty";
    if (summary_.validation.samples() > 0) return "all went to validation";
    if (summary_.skipped.count == summary_.records) return "every record is wrong, first " + summary_.skipped.first[0];
    return "every sample was dropped";
  }

  const std::function<void(const PrepareProgress&)>& progress_;
  TokenFileWriter train_;
  std::optional<TokenFileWriter> validation_;
  Lint lint_;
  PrepareSummary summary_;
};

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

PrepareSummary prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress) {
  check_outputs(options);
  BlockReader reader(options);  // complains of inputs before the tokenizer is read
  const Renderer renderer(options);
  Writer writer(options, renderer, progress);
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  OrderedWork<Block, Rendered>(
      [&]() -> std::optional<OrderedWork<Block, Rendered>::Task> {
        Block block = reader.next();
        if (block.records.empty()) return std::nullopt;
        std::size_t bytes = 0;
        for (const Record& record : block.records) bytes += record.text.size();
        return OrderedWork<Block, Rendered>::Task{std::move(block), bytes};
      },
      [&](const Block& block) { return renderer(block); }, [&](const Rendered& rendered) { writer.write(rendered); })
      .run(threads, kBytesUnderWay);
  return writer.finish(options.out);
}

}  // namespace ossature
