"""nwc report: the page, and what stands in it."""
import json
import pathlib
import re
import struct

from cli_case import BAD_FILE, MODEL, OK, USAGE, CliCase, main

LOG = ('{"step":100,"epoch":0.5,"rate":3.1,"distortion":0.02,"loss":3.5,"seconds":1.0}\n'
       '{"step":200,"epoch":1,"rate":3.0,"distortion":0.01,"loss":3.2,"levels":[{"lambda":1,"step":0.5,"bpw":3,"mse":0.01,"gap":0.26}],"seconds":2.0}\n')


def data_of(page):
    text = pathlib.Path(page).read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


class Report(CliCase):
    def test_a_page_that_needs_nothing_else(self):
        page = self.tmp / "plain.html"
        told = self.json("report", self.file, "-o", page)
        self.assertEqual((told["output"], told["bytes"], told["compared_tensors"]), (str(page), page.stat().st_size, 0))
        text = page.read_text()
        self.assertEqual(re.findall(r'(?:src|href)=', text), [])
        self.assertEqual(set(re.findall(r'https?://[^"\s]*', text)), {"http://www.w3.org/2000/svg"})
        data = data_of(page)
        info = self.json("info", self.file)
        self.assertEqual(data["info"]["tensors"], info["tensors"])
        self.assertEqual(data["info"]["provenance"], info["provenance"])
        self.assertEqual(data["name"], "g.nwc")
        parts = sum(t["stored_bytes"] + t["padding_bytes"] for t in data["info"]["tensors"])
        self.assertEqual(parts + data["info"]["codec_bytes"] + data["info"]["metadata_bytes"], data["info"]["file_bytes"])
        self.assertNotIn("log", data)

    def test_errors_and_curves(self):
        page, log = self.tmp / "full.html", self.tmp / "train.jsonl"
        log.write_text(LOG)
        told = self.json("report", self.file, "--reference", MODEL, "--log", log, "-o", page)
        data = data_of(page)
        coded = [t for t in data["info"]["tensors"] if t["storage"] == "coded"]
        self.assertEqual(told["compared_tensors"], len(coded))
        for t in coded:
            self.assertTrue(1e-5 < t["relative_error"] < 0.5, t)
        self.assertEqual([line["step"] for line in data["log"]], [100, 200])
        self.assertEqual(data["log_name"], "train.jsonl")

    def test_no_name_can_leave_the_data(self):
        name = "</script><script>alert(1)</script><!--"
        values = struct.pack("<64f", *range(64))
        header = json.dumps({name: {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}).encode()
        plain, file, page = self.tmp / "odd.safetensors", self.tmp / "odd.nwc", self.tmp / "odd.html"
        plain.write_bytes(struct.pack("<Q", len(header)) + header + values)
        self.check(OK, "compress", plain, "--calib", "none", "-o", file)
        self.check(OK, "report", file, "-o", page)
        self.assertEqual(data_of(page)["info"]["tensors"][0]["name"], name)
        self.assertEqual(page.read_text().count("</script>"), 2)

    def test_bad_input(self):
        page, log = self.tmp / "bad.html", self.tmp / "bad.jsonl"
        log.write_text(LOG + "no JSON\n")
        for code, args, said in [(BAD_FILE, [self.file, "--log", log], r"bad.jsonl: line 3 is no JSON"),
                                 (USAGE, [MODEL], "is no .nwc file"),
                                 (USAGE, [self.file, "--reference", self.file], "uncompressed model"),
                                 (USAGE, [self.file, "-o", self.tmp / "page.gguf"], "name it .html")]:
            output = [] if "-o" in args else ["-o", page]
            done = self.check(code, "report", *args, *output)
            self.assertRegex(done.stderr, said)
            self.assertFalse(page.exists())
        before = self.file.read_bytes()
        self.check(USAGE, "report", self.file, "-o", self.file)
        self.assertEqual(self.file.read_bytes(), before)


if __name__ == "__main__":
    main()
