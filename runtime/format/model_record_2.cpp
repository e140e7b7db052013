// Version 2 of the MODEL section: any architecture, as specs of blocks. Layout and rules: doc/format_model.md. Reader
// and writer walk the same description of the parts, so that they cannot differ.
#include "runtime/format/model_record_2.h"

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr uint32_t kMaxKinds = 16;
constexpr size_t kMaxName = 1024;

enum Part : uint8_t {
  kNorms = 1,
  kAttention = 2,
  kPositions = 3,
  kMixer = 4,
  kMlp = 5,
  kExperts = 6,
  kEnds = 7,
  kEncoder = 8
};

/// Reads fields one after another; the first error stays. What it does not know is unsupported, not corrupt: a newer
/// writer made it.
class FieldReader {
 public:
  explicit FieldReader(ByteReader* reader) : reader_(reader) {}
  template <typename T>
  void value(const char* field, T& out) {
    if (status_.ok()) status_ = reader_->read(&out, field);
  }
  template <typename E>
  void choice(const char* field, E& out, E last) {
    uint8_t number = 0;
    value(field, number);
    if (status_.ok() && number > static_cast<uint8_t>(last)) {
      status_ = unsupported(str_cat("model field ", field, " is ", number, ", known are 0 to ",
                                    static_cast<uint32_t>(last), "; use a newer version of this program"));
    }
    if (status_.ok()) out = static_cast<E>(number);
  }
  void flags(const char* field, std::initializer_list<bool*> bits) {
    uint8_t number = 0;
    value(field, number);
    if (status_.ok() && (number >> bits.size()) != 0) {
      status_ = unsupported(str_cat("model field ", field, " is ", number,
                                    ", which has unknown bits; use a newer version of this program"));
    }
    for (bool* bit : bits) {
      *bit = (number & 1) != 0;
      number = static_cast<uint8_t>(number >> 1);
    }
  }
  void reserved(uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; ++i) {
      uint8_t number = 0;
      value("reserved", number);
      if (status_.ok() && number != 0) status_ = unsupported(str_cat("a reserved byte of the model is ", number));
    }
  }
  void floats(const char* field, std::vector<float>& out) {
    uint16_t count = 0;
    value(field, count);
    if (status_.ok()) status_ = reader_->read_array(&out, count, field);
  }
  Status status() const { return status_; }

 private:
  ByteReader* reader_;
  Status status_;
};

class FieldWriter {
 public:
  explicit FieldWriter(ByteWriter* writer) : writer_(writer) {}
  template <typename T>
  void value(const char*, const T& v) {
    writer_->write(v);
  }
  template <typename E>
  void choice(const char*, E v, E) {
    writer_->write(static_cast<uint8_t>(v));
  }
  void flags(const char*, std::initializer_list<const bool*> bits) {
    uint8_t number = 0, bit = 1;
    for (const bool* b : bits) {
      if (*b) number = static_cast<uint8_t>(number | bit);
      bit = static_cast<uint8_t>(bit << 1);
    }
    writer_->write(number);
  }
  void reserved(uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; ++i) writer_->write(uint8_t{0});
  }
  void floats(const char*, const std::vector<float>& v) {
    writer_->write(static_cast<uint16_t>(v.size()));
    writer_->write_array(std::span<const float>(v));
  }

 private:
  ByteWriter* writer_;
};

// The parts. Spec is BlockSpec or const BlockSpec, and so on.
template <typename F, typename Spec>
void norms(F& f, Spec& s) {
  f.choice("norm", s.norm, NormKind::kLayer);
  f.flags("norm flags", {&s.norm_one_plus, &s.norm_bias, &s.norm_before, &s.norm_after, &s.norm_sum, &s.layer_scale});
  f.choice("parallel", s.parallel, Parallel::kSharedNorm);
  f.reserved(1);
  f.value("norm_eps", s.norm_eps);
  f.value("residual_scale", s.residual_scale);
}

template <typename F, typename Spec>
void attention(F& f, Spec& s) {
  f.value("num_heads", s.num_heads);
  f.value("num_kv_heads", s.num_kv_heads);
  f.value("head_dim", s.head_dim);
  f.value("window", s.window);
  f.flags("attention flags", {&s.qkv_bias, &s.output_bias, &s.causal, &s.sinks});
  f.choice("qk_norm", s.qk_norm, QkNorm::kWhole);
  f.reserved(2);
  f.value("attention_softcap", s.attention_softcap);
  f.value("attention_scale", s.attention_scale);
  f.value("temperature_beta", s.temperature_beta);
  f.value("temperature_positions", s.temperature_positions);
}

template <typename F, typename Spec>
void positions(F& f, Spec& s) {
  f.choice("positions", s.positions, Positions::kRotary);
  f.choice("rope_scaling", s.rope.scaling, RopeScaling::kDynamic);
  f.flags("rope flags", {&s.rope.truncate});
  f.reserved(1);
  f.value("rope_dims", s.rope.dims);
  f.value("rope_theta", s.rope.theta);
  f.value("rope_factor", s.rope.factor);
  f.value("rope_low_freq_factor", s.rope.low_freq_factor);
  f.value("rope_high_freq_factor", s.rope.high_freq_factor);
  f.value("rope_original_max_positions", s.rope.original_max_positions);
  f.value("rope_beta_fast", s.rope.beta_fast);
  f.value("rope_beta_slow", s.rope.beta_slow);
  f.value("rope_attention_factor", s.rope.attention_factor);
  f.floats("rope_short_factors", s.rope.short_factors);
  f.floats("rope_long_factors", s.rope.long_factors);
}

template <typename F, typename Spec>
void mlp(F& f, Spec& s) {
  f.flags("MLP flags", {&s.gated, &s.mlp_bias, &s.up_plus_one});
  f.choice("activation", s.activation, MlpActivation::kQuickGelu);
  f.reserved(2);
  f.value("intermediate_size", s.intermediate_size);
  f.value("clamp", s.clamp);
}

template <typename F, typename Spec>
void experts(F& f, Spec& s) {
  f.value("num_experts", s.num_experts);
  f.value("experts per token", s.per_token);
  f.value("experts' intermediate_size", s.intermediate_size);
  f.value("shared expert's intermediate_size", s.shared_intermediate_size);
  f.choice("router", s.router, RouterKind::kSigmoid);
  f.flags("router flags", {&s.normalized, &s.router_bias, &s.shared_gate});
  f.reserved(2);
  f.value("router's scale", s.scale);
}

template <typename F, typename Spec>
void ends(F& f, Spec& s) {
  f.flags("ends flags", {&s.final_norm, &s.head_bias});
  f.reserved(3);
  f.value("embedding_scale", s.embedding_scale);
  f.value("position_rows", s.position_rows);
  f.value("logit_softcap", s.logit_softcap);
  f.value("logit_scale", s.logit_scale);
}

template <typename F, typename Spec>
void encoder(F& f, Spec& s) {
  f.choice("pooling", s.pooling, Pooling::kAttention);
  f.flags("encoder flags",
          {&s.embedding_norm, &s.class_token, &s.patch_bias, &s.pooler, &s.pooled_norm, &s.normalized});
  f.choice("position_fit", s.position_fit, PositionFit::kBicubicAntialiased);
  f.reserved(1);
  f.value("token_types", s.token_types);
  f.value("projection", s.projection);
  f.value("image_height", s.image_height);
  f.value("image_width", s.image_width);
  f.value("patch_size", s.patch_size);
  f.value("channels", s.channels);
  f.value("registers", s.registers);
}

/// Calls read(part, fields) for each part of a list that takes the rest of `bytes`.
template <typename Read>
Status read_parts(Bytes bytes, uint64_t offset, Read&& read) {
  ByteReader reader(bytes, offset);
  uint32_t seen = 0;
  while (reader.remaining() != 0) {
    uint8_t part = 0, reserved = 0;
    uint16_t size = 0;
    NWC_TRY(reader.read(&part, "part"));
    NWC_TRY(reader.read(&reserved, "reserved byte of a part"));
    NWC_TRY(reader.read(&size, "size of a part"));
    const uint64_t at = reader.offset();
    Bytes content;
    NWC_TRY(reader.read_bytes(&content, size, "part's contents"));
    if (reserved != 0) return unsupported("a reserved byte of the model is not 0");
    if (part < 32 && ((seen >> part) & 1) != 0) return corrupt(str_cat("part ", part, " of the model occurs twice"));
    if (part < 32) seen |= 1u << part;
    ByteReader inner(content, at);
    FieldReader fields(&inner);
    if (!read(part, fields)) {
      return unsupported(str_cat("part ", part, " of the model at offset ", at, " is unknown",
                                 part == kMixer ? ": a mixer other than attention" : "",
                                 "; use a newer version of this program"));
    }
    NWC_TRY(fields.status());
    if (inner.remaining() != 0) {
      return unsupported(str_cat("part ", part, " of the model at offset ", at, " has ", inner.remaining(),
                                 " unknown bytes; use a newer version of this program"));
    }
  }
  return {};
}

template <typename Write>
void write_part(ByteWriter* out, Part part, Write&& write) {
  ByteWriter content;
  FieldWriter fields(&content);
  write(fields);
  out->write(static_cast<uint8_t>(part));
  out->write(uint8_t{0});
  out->write(static_cast<uint16_t>(content.size()));
  out->write_bytes(content.bytes());
}

Status read_spec(Bytes bytes, uint64_t offset, BlockSpec* spec) {
  return read_parts(bytes, offset, [&](uint8_t part, FieldReader& f) {
    switch (part) {
      case kNorms: norms(f, *spec); return true;
      case kAttention: attention(f, *spec); return true;
      case kPositions: positions(f, *spec); return true;
      case kMlp: mlp(f, *spec); return true;
      case kExperts: experts(f, spec->experts); return true;
      default: return false;
    }
  });
}

void write_spec(const BlockSpec& spec, ByteWriter* out) {
  ByteWriter parts;
  write_part(&parts, kNorms, [&](FieldWriter& f) { norms(f, spec); });
  write_part(&parts, kAttention, [&](FieldWriter& f) { attention(f, spec); });
  write_part(&parts, kPositions, [&](FieldWriter& f) { positions(f, spec); });
  write_part(&parts, kMlp, [&](FieldWriter& f) { mlp(f, spec); });
  if (spec.experts != ExpertSpec()) write_part(&parts, kExperts, [&](FieldWriter& f) { experts(f, spec.experts); });
  out->write(static_cast<uint32_t>(parts.size()));
  out->write_bytes(parts.bytes());
}

Status read_sized(ByteReader* reader, const char* what, Bytes* out, uint64_t* offset) {
  uint32_t size = 0;
  NWC_TRY(reader->read(&size, what));
  *offset = reader->offset();
  return reader->read_bytes(out, size, what);
}

Status read_names(Bytes bytes, uint64_t offset, std::vector<TensorName>* names) {
  ByteReader reader(bytes, offset);
  while (reader.remaining() != 0) {
    uint8_t role = 0, reserved = 0;
    uint16_t length = 0;
    NWC_TRY(reader.read(&role, "role"));
    NWC_TRY(reader.read(&reserved, "reserved byte of a name"));
    NWC_TRY(reader.read(&length, "length of a name"));
    TensorName name;
    NWC_TRY(reader.read_string(&name.pattern, length, "name of a tensor"));
    if (role_name(static_cast<Role>(role)) == nullptr || reserved != 0) {
      return unsupported(str_cat("tensor \"", name.pattern, "\" has role ", role,
                                 ", which is unknown; use a newer version of this program"));
    }
    name.role = static_cast<Role>(role);
    names->push_back(std::move(name));
  }
  return {};
}

}  // namespace

Result<ModelRecord> parse_model_record_2(ByteReader* reader) {
  ModelRecord m;
  uint8_t num_eos = 0, num_kinds = 0;
  FieldReader fixed(reader);
  fixed.value("vocab_size", m.vocab_size);
  fixed.value("hidden_size", m.hidden_size);
  fixed.value("num_layers", m.num_layers);
  fixed.value("max_positions", m.max_positions);
  fixed.flags("model flags", {&m.tied_embeddings});
  fixed.value("number of eos_ids", num_eos);
  fixed.value("number of block kinds", num_kinds);
  fixed.reserved(1);
  NWC_TRY(fixed.status());
  if (m.num_layers > kMaxModelLayers)
    return limit_error(str_cat("model field num_layers is ", m.num_layers, ", the limit is ", kMaxModelLayers));
  if (num_kinds == 0 || num_kinds > kMaxKinds)
    return corrupt(str_cat("the number of block kinds is ", num_kinds, ", it must be 1 to ", kMaxKinds));
  NWC_TRY(reader->read_array(&m.block_kind, m.num_layers, "block_kind"));
  m.blocks.assign(num_kinds, BlockSpec());
  Bytes bytes;
  uint64_t offset = 0;
  for (uint32_t i = 0; i < num_kinds; ++i) {
    NWC_TRY(read_sized(reader, "spec of a block", &bytes, &offset));
    NWC_TRY(read_spec(bytes, offset, &m.blocks[i]).with_context(str_cat("block kind ", i)));
  }
  NWC_TRY(read_sized(reader, "ends", &bytes, &offset));
  NWC_TRY(read_parts(bytes, offset, [&](uint8_t part, FieldReader& f) {
    switch (part) {
      case kEnds: ends(f, m.ends); return true;
      case kEncoder: encoder(f, m.ends.encoder); return true;
      default: return false;
    }
  }));
  NWC_TRY(read_sized(reader, "names of tensors", &bytes, &offset));
  NWC_TRY(read_names(bytes, offset, &m.names));
  NWC_TRY(reader->read_array(&m.eos_ids, num_eos, "eos_ids"));
  return m;
}

void write_model_record_2(const ModelRecord& m, ByteWriter* out) {
  FieldWriter fixed(out);
  fixed.value("", m.vocab_size);
  fixed.value("", m.hidden_size);
  fixed.value("", m.num_layers);
  fixed.value("", m.max_positions);
  fixed.flags("", {&m.tied_embeddings});
  fixed.value("", static_cast<uint8_t>(m.eos_ids.size()));
  fixed.value("", static_cast<uint8_t>(m.blocks.size()));
  fixed.reserved(1);
  for (uint32_t l = 0; l < m.num_layers; ++l) out->write(m.block_kind.empty() ? uint8_t{0} : m.block_kind[l]);
  for (const BlockSpec& spec : m.blocks) write_spec(spec, out);
  ByteWriter sized;
  write_part(&sized, kEnds, [&](FieldWriter& f) { ends(f, m.ends); });
  if (m.ends.encoder != EncoderSpec())
    write_part(&sized, kEncoder, [&](FieldWriter& f) { encoder(f, m.ends.encoder); });
  out->write(static_cast<uint32_t>(sized.size()));
  out->write_bytes(sized.bytes());
  ByteWriter names;
  for (const TensorName& name : m.names) {
    names.write(static_cast<uint8_t>(name.role));
    names.write(uint8_t{0});
    names.write(static_cast<uint16_t>(name.pattern.size()));
    names.write_string(name.pattern);
  }
  out->write(static_cast<uint32_t>(names.size()));
  out->write_bytes(names.bytes());
  out->write_array(std::span<const uint32_t>(m.eos_ids));
}

Status validate_names(const std::vector<TensorName>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    const TensorName& name = names[i];
    const std::string quoted = str_cat("the name of the ", role_name(name.role), ", \"", name.pattern, "\",");
    const size_t places = !of_layer(name.role) ? 0 : of_expert(name.role) ? 2 : 1;
    size_t found = 0;
    for (size_t at = name.pattern.find("{}"); at != std::string::npos; at = name.pattern.find("{}", at + 2)) ++found;
    if (name.pattern.empty() || name.pattern.size() > kMaxName)
      return corrupt(str_cat(quoted, " must have 1 to ", kMaxName, " bytes"));
    if (found != places) {
      return corrupt(str_cat(quoted, places == 0   ? " must not have {}"
                                     : places == 1 ? " needs {} once, for the layer"
                                                   : " needs {} twice, for the layer and the expert"));
    }
    const auto same = [&](const TensorName& other) { return other.role == name.role; };
    if (std::find_if(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), same) !=
        names.begin() + static_cast<std::ptrdiff_t>(i))
      return corrupt(str_cat(quoted, " is the second one for its role"));
  }
  return {};
}

}  // namespace nwc
