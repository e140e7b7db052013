// nwc: the command-line tool. One subcommand per file cmd_*.cpp.

#include <cstdio>

#include "host-tools/cli.h"

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
  CommandLine line(
      "nwc stores language-model weights with a learned codec and runs models from the compressed file.\n\n"
      "Typical use:\n"
      "  nwc compress MODEL --bits 4 -o model.nwc     MODEL: Hugging Face folder, .gguf or .safetensors\n"
      "  nwc info model.nwc\n"
      "  nwc verify model.nwc --backend vulkan\n"
      "  nwc eval model.nwc --reference MODEL --text book.txt\n"
      "  nwc run model.nwc --prompt 'Once upon a time' --mode streamed\n"
      "  nwc embed encoder.nwc --text 'a cat' --text 'a dog'\n"
      "Exit codes: 0 ok, 1 failure, 2 usage, 3 bad or unsupported file, 4 no device.\n",
      "nwc");
  line.set_version("nwc " NWC_VERSION);
  nwc::Result<std::unique_ptr<nwc::Ranks>> ranks = nwc::join_ranks(interrupted);
  if (!ranks.ok()) {
    std::fprintf(stderr, "nwc: %s\n", ranks.status().message().c_str());
    return kFailure;
  }
  Context context;
  context.ranks = ranks->get();
  add_train(line, context);
  add_compress(line, context);
  add_decompress(line, context);
  add_info(line, context);
  add_verify(line, context);
  add_eval(line, context);
  add_run(line, context);
  add_embed(line, context);
  add_report(line, context);
  add_completion(line, context);
  const CommandLine::Outcome outcome = line.run(argc, argv);
  // Help and version are results (stdout, 0); everything else is a usage error (stderr, 2). All ranks have the same
  // arguments.
  if (outcome.usage_error) {
    if (context.ranks->first()) std::fputs(outcome.text.c_str(), stderr);
    return kUsage;
  }
  if (!outcome.text.empty()) {
    const nwc::Status printed = context.ranks->first() ? write_stdout(outcome.text) : nwc::Status();
    if (printed.ok()) return kOk;
    std::fprintf(stderr, "nwc: %s\n", printed.message().c_str());
    return kFailure;
  }
  return finish_ranks(context, std::move(*ranks));
}
