#include <png.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "host-tools/image_input.h"
#include "runtime/base/str_cat.h"
#include "trainer/data/fs_path.h"

namespace nwc::cli {

Result<Picture> read_png(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(fs_path(path), error)) return io_error(path + ": there is no such file");
  png_image image;
  std::memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&image, path.c_str()) == 0)
    return corrupt(path + ": is not a PNG that can be read: " + image.message);
  const auto fail = [&](Status status) {
    png_image_free(&image);
    return status;
  };
  if (uint64_t{image.width} * image.height > kMaxPixels)
    return fail(limit_error(str_cat(path, ": has ", image.width, " x ", image.height, " pixels, the limit is 2^28")));
  image.format = PNG_FORMAT_RGBA;  // transparency is dropped, as Pillow's convert("RGB") does
  std::vector<uint8_t> rgba(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, rgba.data(), 0, nullptr) == 0)
    return fail(corrupt(path + ": is damaged: " + image.message));
  Picture picture{image.height, image.width, std::vector<uint8_t>(rgba.size() / 4 * 3)};
  for (size_t i = 0; i < rgba.size() / 4; ++i) std::copy_n(&rgba[i * 4], 3, &picture.rgb[i * 3]);
  return picture;
}

}  // namespace nwc::cli
