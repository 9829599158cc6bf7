// The program: finds the subcommand, runs it, and turns whatever it throws into one message and an exit code.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <system_error>

#include "model/config.h"
#include "train/commands/command.h"
#include "train/errors.h"
#include "train/recipe.h"

namespace ossature {
namespace {

int fail(int code, const std::string& message) {
  std::cerr << "ossature: error: " << message << std::endl;
  return code;
}

bool is_about_resources(const std::error_code& code) {
  for (const int value : {ENOSPC, EDQUOT, EIO, EROFS, EFBIG, ENOMEM}) {
    if (code == std::error_code(value, std::system_category()) ||
        code == std::error_code(value, std::generic_category()))
      return true;
  }
  return false;
}

int run(int argc, char** argv) {
  CLI::App app("Fine-tunes gpt-oss on your own machine.", "ossature");
  app.set_version_flag("--version", "ossature " OSSATURE_VERSION);
  app.require_subcommand(1);
  register_recipes(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    return fail(2, std::string(error.what()) + " (see ossature --help)");
  } catch (const RecipeError& error) {
    return fail(2, error.what());
  } catch (const CheckpointError& error) {
    return fail(3, error.what());
  } catch (const NonFiniteError& error) {
    return fail(4, error.what());
  } catch (const InterruptedError& error) {
    return fail(130, error.what());
  } catch (const std::system_error& error) {  // std::filesystem::filesystem_error too
    const bool is_user_path = dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr;
    return fail(is_about_resources(error.code()) || !is_user_path ? 5 : 3, error.what());
  } catch (const std::bad_alloc&) {
    return fail(5, "out of memory; a smaller train.micro_batch_size or data.sequence_length needs less");
  } catch (const std::exception& error) {
    return fail(
        1, std::string(error.what()) + "\nThis is a bug in ossature: please report it with the command that you ran.");
  }
}

}  // namespace
}  // namespace ossature

int main(int argc, char** argv) {
  // glibc maps and unmaps blocks of 32 MiB and more at each use, which costs ten times their first touch; keep them
  // instead.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  return ossature::run(argc, argv);
}
