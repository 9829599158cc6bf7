#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include "data/data_error.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/reports/run_report.h"
#include "train/text/progress.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path run;
  std::optional<fs::path> out;
};

RunReport read(const Options& options) {
  Progress progress("report");
  return read_run_report(options.run, [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
}

void run(const Options& options) {
  const fs::path out = options.out.value_or(options.run / "report.html");
  if (options.out && fs::is_regular_file(out) && !is_report_page(out)) {
    throw DataError(out.string() + ": already exists and is no report, which may be replaced; give another --out");
  }
  std::optional<OutputFile> file;
  if (options.out) file.emplace(out, OutputFile::Replaces::kHtml);
  const RunReport report = read(options);
  replace_text_file(out, report_page(report));
  for (const std::string& missing : report.missing) std::cerr << "not in the report: " << visible_line(missing) << "\n";
  std::cout << out.string() << "\n";
}

}  // namespace

void register_report(CLI::App& app) {
  CLI::App* command = app.add_subcommand("report", "One HTML page about a run: curves, recipe, data, adapter, machine");
  const auto options = std::make_shared<Options>();
  command->add_option("RUN", options->run, "Run folder, complete or not")->required()->type_name("DIR");
  command->add_option("--out", options->out, "Page to write or to replace; RUN/report.html if not given")
      ->type_name("FILE.html");
  add_threads_option(*command);
  command->callback([options] { run(*options); });
}

}  // namespace ossature
