// Families of encoders: of texts (BERT, CLIP's text model), and of images (ViT, DINOv2, CLIP's and SigLIP's vision
// models).
#pragma once

#include "trainer/data/hf_family.h"

namespace nwc {

Status read_bert(ConfigReader& c, ModelRecord* m);
Status read_vit(ConfigReader& c, ModelRecord* m);
Status read_dinov2(ConfigReader& c, ModelRecord* m);
Status read_dinov2_registers(ConfigReader& c, ModelRecord* m);
Status read_clip_text(ConfigReader& c, ModelRecord* m);
Status read_clip_vision(ConfigReader& c, ModelRecord* m);
Status read_siglip_vision(ConfigReader& c, ModelRecord* m);

std::vector<TensorName> names_of_bert();
std::vector<TensorName> names_of_vit();
std::vector<TensorName> names_of_dinov2();
std::vector<TensorName> names_of_clip_text();
std::vector<TensorName> names_of_clip_vision();
std::vector<TensorName> names_of_siglip_vision();

}  // namespace nwc
