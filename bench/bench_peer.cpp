// Starts peer.py, which measures nwc and llama.cpp in turns and runs this program again for nwc's side.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "bench/bench_commands.h"

namespace nwc::bench {
namespace {

struct PeerOptions {
  std::string python = "python3";
  std::string script = std::string(NWC_BENCH_FOLDER) + "/peer.py";
};

[[noreturn]] void run_peer(const PeerOptions& o, std::vector<std::string> further) {
  std::string forms;
  for (const std::string& form : weight_forms()) forms += (forms.empty() ? "" : ",") + form;
  std::vector<std::string> arguments = {
      o.python,  o.script, "--bench",  std::filesystem::read_symlink("/proc/self/exe"),
      "--forms", forms,    "--python", o.python};
  arguments.insert(arguments.end(), further.begin(), further.end());
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  check(io_error(o.python + " does not start: " + std::strerror(errno) + "; set --python"));
  std::abort();
}

}  // namespace

void add_peer(cli::CommandLine& line) {
  const auto o = std::make_shared<PeerOptions>();
  cli::Command command = line.add_command(
      "peer", "nwc and llama.cpp side by side: speed, first token, memory, KL divergence; see bench/peer.py");
  command.keep_other_words();  // the script's own
  command.add_option("--python", o->python, "Interpreter with llama.cpp's wheels").show_default();
  command.on_run([o, command] { run_peer(*o, command.other_words()); });
}

}  // namespace nwc::bench
