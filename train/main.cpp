// The program: finds the subcommand, runs it, and turns whatever it throws into one message and an exit code.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "model/kernels/tensor_memory.h"
#include "train/commands/command.h"
#include "train/failure/failure.h"
#include "train/loop/waiting_threads.h"
#include "train/run/version.h"

namespace ossature {
namespace {

int fail(const Failure& failure) {
  tell(failure);
  return failure.exit_code;
}

/// "ossature recipes cp": the command that was asked for, as far as it was understood.
std::string command_line(const CLI::App& app) {
  const auto subcommands = app.get_subcommands();
  return app.get_name() + (subcommands.empty() ? "" : " " + command_line(*subcommands.front()));
}

int run(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return std::cout.flush() && std::ferror(stdout) == 0 ? 0 : fail({5, "standard output cannot be written"});
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    return fail({2, std::string(error.what()) + " (see " + command_line(app) + " --help)"});
  } catch (const std::exception& error) {
    std::cout.flush();
    return fail(describe_failure(error));
  }
}

}  // namespace
}  // namespace ossature

int main(int argc, char** argv) {
  ossature::let_waiting_threads_sleep(argv);
  // A write past the file size limit or into a pipe that nobody reads fails instead of killing the program, so that it
  // can clean up and say why; a run goes on when the reader of its progress has left.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  // glibc maps and unmaps blocks of 32 MiB and more at each use, which costs ten times their first touch; keep them
  // instead.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  ossature::use_tensor_heap();
  // oneDNN and LibTorch's layer above it keep what they prepared for a product's shape, about a megabyte each, for the
  // last 1,024 shapes. Tokens of a step and rows of an expert are hardly twice the same, so that is gigabytes for
  // nothing: 64 are as fast. Values of the user's stay.
  ::setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64", 0);
  ::setenv("LRU_CACHE_CAPACITY", "64", 0);
  CLI::App app("Fine-tunes gpt-oss on your own machine.", "ossature");
  app.set_version_flag("--version", [] { return ossature::version_text(); });
  app.require_subcommand(1);
  ossature::register_init(app);
  ossature::register_prepare(app);
  ossature::register_preview(app);
  ossature::register_train(app);
  ossature::register_estimate(app);
  ossature::register_eval(app);
  ossature::register_generate(app);
  ossature::register_chat(app);
  ossature::register_export(app);
  ossature::register_verify(app);
  ossature::register_adapter(app);
  ossature::register_inspect(app);
  ossature::register_report(app);
  ossature::register_recipes(app);
  return ossature::run(app, argc, argv);
}
