// A file of samples, plain or compressed, read, parsed and rendered as `prepare` does. The first byte chooses the
// name's end and the limits.
#include "data/records/formats.h"
#include "data/records/records.h"
#include "tests/fuzz/fixtures.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  if (size == 0) return 0;
  static const std::vector<std::unique_ptr<fuzz::InputFile>> files = [] {
    std::vector<std::unique_ptr<fuzz::InputFile>> made;
    for (const char* extension : {".jsonl", ".json", ".txt", ".jsonl.gz"}) {
      made.push_back(std::make_unique<fuzz::InputFile>(extension));
    }
    return made;
  }();
  const unsigned choice = data[0];
  const auto& path = files[choice % 4]->write(fuzz::text_of(data + 1, size - 1));
  RecordOptions options;
  options.max_record_bytes = choice & 4 ? 64 : 1 << 20;
  const Harmony& harmony = fuzz::renderers()[(choice >> 3) % fuzz::renderers().size()];
  try {
    RecordReader reader({path, path}, options);
    SampleParser parser;
    std::int64_t line = 0;
    for (int blocks = 0;; ++blocks) {
      const auto records = reader.next_block(choice & 64 ? 1 : 100, choice & 128 ? 1 : 1 << 20);
      if (records.empty()) break;
      parser.detect(records);
      for (const Record& record : records) {
        fuzz::require(record.line >= 1 && record.column >= 1, "a place is not counted from 1");
        fuzz::require(!record.error.empty() || valid_utf8_prefix(record.text) == record.text.size(),
                      "a record without an error is not UTF-8");
        fuzz::require(!record.error.empty() || record.text.size() <= options.max_record_bytes, "a record is too long");
        line = record.line;
        try {
          const Sample sample = parser.parse(record);
          if (const auto* conversation = std::get_if<Conversation>(&sample)) {
            for (const RenderedSample& one : harmony.render(*conversation)) fuzz::check_sample(one);
          } else if (const auto* text = std::get_if<std::string>(&sample)) {
            fuzz::check_sample(harmony.render_text(*text));
          } else {
            for (const auto& one : harmony.render_harmony_text(std::get<HarmonyText>(sample).text))
              fuzz::check_sample(one);
          }
        } catch (const DataError& error) {
          fuzz::check_message(error);
        }
      }
    }
    fuzz::require(line <= static_cast<std::int64_t>(size) * 1100, "more lines than the file can have");
    fuzz::require(reader.bytes_done() <= reader.bytes_total(), "more was read than there is");
  } catch (const DataError& error) {
    fuzz::check_message(error);
  }
  return 0;
}
