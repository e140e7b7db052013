// nwc completion: what a shell needs to complete the commands, options and values of this program, made of their own
// descriptions.

#include <fmt/format.h>

#include "host-tools/cli.h"

namespace nwc::cli {
namespace {

/// The values of an option that takes one of a few, which its type's name has as {a,b,c}.
std::vector<std::string> values_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t begin = type.find('{'), end = type.find('}');
  std::vector<std::string> out;
  if (begin == std::string::npos || end == std::string::npos) return out;
  for (size_t at = begin + 1; at <= end;) {
    const size_t next = std::min(type.find(',', at), end);
    if (next > at) out.push_back(type.substr(at, next - at));
    at = next + 1;
  }
  return out;
}

/// "--bits", "-b", and both names of a flag that can be turned off.
std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> out;
  for (const std::string& name : option.get_lnames()) out.push_back("--" + name);
  for (const std::string& name : option.get_snames()) out.push_back("-" + name);
  return out;
}

struct Command {
  std::string name, description;
  std::vector<const CLI::Option*> options;
};

std::vector<Command> commands_of(const CLI::App& app) {
  std::vector<Command> out;
  for (const CLI::App* sub : app.get_subcommands({})) {
    Command& command = out.emplace_back(Command{sub->get_name(), sub->get_description(), {}});
    for (const CLI::Option* option : sub->get_options()) {
      if (!names_of(*option).empty()) command.options.push_back(option);
    }
  }
  return out;
}

std::string bash_script(const std::vector<Command>& commands) {
  std::string names, values, options;
  for (const Command& command : commands) {
    names += (names.empty() ? "" : " ") + command.name;
    std::vector<std::string> words;
    for (const CLI::Option* option : command.options) {
      const std::vector<std::string> own = names_of(*option), some = values_of(*option);
      words.insert(words.end(), own.begin(), own.end());
      for (const std::string& name : own) {
        if (!some.empty())
          values += fmt::format("    \"{} {}\") words=\"{}\" ;;\n", command.name, name, fmt::join(some, " "));
      }
    }
    options += fmt::format("      {}) words=\"{}\" ;;\n", command.name, fmt::join(words, " "));
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
    names += fmt::format("    '{}:{}'\n", command.name, zsh_text(command.description));
    cases += fmt::format("    {})\n      _arguments", command.name);
    for (const CLI::Option* option : command.options) {
      const std::vector<std::string> some = values_of(*option);
      const bool takes = option->get_items_expected_max() > 0;
      const std::string value = !takes         ? ""
                                : some.empty() ? ":value:_files"
                                               : fmt::format(":value:({})", fmt::join(some, " "));
      for (const std::string& name : names_of(*option))
        cases += fmt::format(" \\\n        '*{}[{}]{}'", name, zsh_text(option->get_description()), value);
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

void add_completion(CLI::App& app, Context& context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* sub = app.add_subcommand("completion", "Print what a shell needs to complete commands and options");
  sub->add_option("shell", *shell, "bash: source <(nwc completion bash); zsh: save it as _nwc in a folder of $fpath")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh"}));
  sub->callback([&app, shell, &context] {
    run_command(context, "completion", [&]() -> Status {
      const std::vector<Command> commands = commands_of(app);
      fmt::print("{}", *shell == "bash" ? bash_script(commands) : zsh_script(commands));
      return {};
    });
  });
}

}  // namespace nwc::cli
