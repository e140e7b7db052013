// nwc: the command-line tool. One subcommand per file cmd_*.cpp.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "host-tools/cli.h"
#include "host-tools/help_format.h"

int main(int argc, char** argv) {
  using namespace nwc::cli;
  prepare_process(&argc, &argv);
#if defined(__AVX2__)
  // The encoder is compiled for such processors (NWC_TRAINER_ARCH in trainer/CMakeLists.txt); the runtime library is
  // not.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) {
    std::fputs("nwc: this build needs a processor with AVX2, FMA and BMI2; configure with -DNWC_TRAINER_ARCH=\n",
               stderr);
    return kFailure;
  }
#endif
  CLI::App app{
      "nwc stores language-model weights with a learned codec and runs models from the compressed file.\n\n"
      "Typical use:\n"
      "  nwc compress MODEL --bits 4 -o model.nwc     MODEL: Hugging Face folder, .gguf or .safetensors\n"
      "  nwc info model.nwc\n"
      "  nwc verify model.nwc --backend vulkan\n"
      "  nwc eval model.nwc --reference MODEL --text book.txt\n"
      "  nwc run model.nwc --prompt 'Once upon a time' --mode streamed\n"
      "  nwc embed encoder.nwc --text 'a cat' --text 'a dog'\n"
      "Exit codes: 0 ok, 1 failure, 2 usage, 3 bad or unsupported file, 4 no device.\n",
      "nwc"};
  app.require_subcommand(1);
  app.allow_windows_style_options(false);  // "/models/m" is a path on every system
  app.set_version_flag("--version", "nwc " NWC_VERSION);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.formatter(make_help_formatter());
  nwc::Result<std::unique_ptr<nwc::Ranks>> ranks = nwc::join_ranks(interrupted);
  if (!ranks.ok()) {
    std::fprintf(stderr, "nwc: %s\n", ranks.status().message().c_str());
    return kFailure;
  }
  Context context;
  context.ranks = ranks->get();
  add_train(app, context);
  add_compress(app, context);
  add_decompress(app, context);
  add_info(app, context);
  add_verify(app, context);
  add_eval(app, context);
  add_run(app, context);
  add_embed(app, context);
  add_report(app, context);
  add_completion(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version are results (stdout, 0); everything else is a usage error (stderr, 2).
    std::ostringstream out, wrong;
    const bool usage = app.exit(error, out, wrong) != 0;
    if (!context.ranks->first()) return usage ? kUsage : kOk;  // all ranks have the same arguments
    if (usage) {
      std::cerr << wrong.str();
      return kUsage;
    }
    const nwc::Status printed = write_stdout(out.str());
    if (printed.ok()) return kOk;
    std::fprintf(stderr, "nwc: %s\n", printed.message().c_str());
    return kFailure;
  }
  return finish_ranks(context, std::move(*ranks));
}
