// nwc completion: what a shell needs to complete the commands, options and values of this program, made of their own
// descriptions.

#include <fmt/format.h>

#include "host-tools/cli.h"

namespace nwc::cli {
namespace {

std::string bash_script(const std::vector<Command>& commands) {
  std::string names, values, options;
  for (const Command& command : commands) {
    names += (names.empty() ? "" : " ") + command.name();
    std::vector<std::string> words;
    for (const OptionText& option : command.option_texts()) {
      const std::vector<std::string>&own = option.names, &some = option.values;
      words.insert(words.end(), own.begin(), own.end());
      for (const std::string& name : own) {
        if (!some.empty())
          values += fmt::format("    \"{} {}\") words=\"{}\" ;;\n", command.name(), name, fmt::join(some, " "));
      }
    }
    options += fmt::format("      {}) words=\"{}\" ;;\n", command.name(), fmt::join(words, " "));
  }
  return fmt::format(R"(# bash completion for nwc
_nwc() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{} --help --version" -- "$current"))
    return
  fi
  case "$command $previous" in
{}  esac
  if [ -z "$words" ] && [[ $current == -* ]]; then
    case "$command" in
{}    esac
  fi
  if [ -n "$words" ]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _nwc nwc
)",
                     names, values, options);
}

/// Text between single quotes, of which zsh takes brackets and colons for its own.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else if (c == '[' || c == ']' || c == ':' || c == '\\')
      out += std::string("\\") + c;
    else
      out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string zsh_script(const std::vector<Command>& commands) {
  std::string names, cases;
  for (const Command& command : commands) {
    names += fmt::format("    '{}:{}'\n", command.name(), zsh_text(command.description()));
    cases += fmt::format("    {})\n      _arguments", command.name());
    for (const OptionText& option : command.option_texts()) {
      const std::vector<std::string>& some = option.values;
      const std::string value = !option.takes_value ? ""
                                : some.empty()      ? ":value:_files"
                                                    : fmt::format(":value:({})", fmt::join(some, " "));
      for (const std::string& name : option.names)
        cases += fmt::format(" \\\n        '*{}[{}]{}'", name, zsh_text(option.description), value);
    }
    cases += " \\\n        '*:file:_files'\n      ;;\n";
  }
  return fmt::format(R"(#compdef nwc
_nwc() {{
  local -a commands
  commands=(
{}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{}  esac
}}
_nwc "$@"
)",
                     names, cases);
}

}  // namespace

void add_completion(CommandLine& line, Context& context) {
  auto shell = std::make_shared<std::string>();
  Command sub = line.add_command("completion", "Print what a shell needs to complete commands and options");
  sub.add_option("shell", *shell, "bash: source <(nwc completion bash); zsh: save it as _nwc in a folder of $fpath")
      .required()
      .one_of({"bash", "zsh"});
  sub.on_run([&line, shell, &context] {
    run_command(context, "completion", [&]() -> Status {
      const std::vector<Command> commands = line.commands();
      fmt::print("{}", *shell == "bash" ? bash_script(commands) : zsh_script(commands));
      return {};
    });
  });
}

}  // namespace nwc::cli
