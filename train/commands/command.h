// The subcommands of the program, one file each. A function adds its subcommand, options and callback to `app`; the
// callback throws what train/failure/failure.h maps to an exit code. Results go to stdout, everything else to stderr.
#pragma once

namespace CLI {
class App;
}

namespace ossature {

/// Adds --threads to a command: processor threads of its computation. Without it all processors are used.
void add_threads_option(CLI::App& command);

void register_init(CLI::App& app);
void register_prepare(CLI::App& app);
void register_preview(CLI::App& app);
void register_train(CLI::App& app);
void register_estimate(CLI::App& app);
void register_eval(CLI::App& app);
void register_generate(CLI::App& app);
void register_chat(CLI::App& app);
void register_export(CLI::App& app);
void register_verify(CLI::App& app);
void register_adapter(CLI::App& app);
void register_inspect(CLI::App& app);
void register_report(CLI::App& app);
void register_recipes(CLI::App& app);

}  // namespace ossature
