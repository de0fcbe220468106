/* SPDX-License-Identifier: MIT */
/*
 * Reading text into the index: a file, or all regular files below a directory in
 * the order of their names.
 *
 * A word is a run of letters, digits, underscores and bytes of UTF-8 sequences;
 * ASCII capitals count as small letters. Its position is that of its first byte
 * in all of the text.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "wordindex.h"

#define PACKAGES "/var/lib/dpkg"
#define PACKAGES_LIMIT ((uint64_t)16 << 20)

/**
 * struct reader - between two bytes of the text
 * @index: where words go
 * @input: counts
 * @limit: stop after so many bytes
 * @len: bytes of the word that has begun
 * @text: the word that has begun
 */
struct reader {
	struct wi_index *index;
	struct wi_input *input;
	uint64_t limit;
	uint32_t len;
	char text[WI_TEXT_MAX];
};

/* The byte as a part of a word; 0: it is not. */
static unsigned char word_byte(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A' + 'a';
	if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c >= 0x80)
		return c;
	return 0;
}

static int end_word(struct reader *reader)
{
	uint32_t len = reader->len;

	reader->len = 0;
	if (!len)
		return 0;
	return wi_index_add(reader->index, reader->text, len, reader->input->bytes - len);
}

static int take(struct reader *reader, const unsigned char *buf, size_t len)
{
	size_t i;
	int ret;

	for (i = 0; i < len; i++) {
		unsigned char c = word_byte(buf[i]);

		if (!c || reader->len == WI_TEXT_MAX) {
			ret = end_word(reader);
			if (ret)
				return ret;
		}
		if (c)
			reader->text[reader->len++] = (char)c;
		reader->input->bytes++;
	}
	return 0;
}

static int read_file(struct reader *reader, const char *path)
{
	static unsigned char buf[1 << 18];
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	reader->input->files++;
	while (!ret && reader->input->bytes < reader->limit) {
		uint64_t left = reader->limit - reader->input->bytes;
		ssize_t n = read(fd, buf, left < sizeof(buf) ? left : sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			ret = -errno;
		if (n <= 0)
			break;
		ret = take(reader, buf, (size_t)n);
	}
	close(fd);
	return ret ? ret : end_word(reader);
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static bool is_package_list(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (!strcmp(dot, ".list") || !strcmp(dot, ".md5sums"));
}

/* @filter: only files whose names it likes; or NULL. */
static int read_tree(struct reader *reader, const char *path, bool (*filter)(const char *name))
{
	char *const paths[] = { (char *)path, NULL };
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
	FTSENT *ent;
	int ret = 0;

	if (!fts)
		return -errno;
	while (!ret && reader->input->bytes < reader->limit) {
		errno = 0;
		ent = fts_read(fts);
		if (!ent) {
			ret = -errno;
			break;
		}
		if (ent->fts_level == 0 && ent->fts_info == FTS_DEFAULT) /* a pipe, say */
			ret = read_file(reader, ent->fts_path);
		else if (ent->fts_info == FTS_F && (!filter || filter(ent->fts_name)))
			ret = read_file(reader, ent->fts_path);
		else if (ent->fts_info == FTS_NS || ent->fts_info == FTS_ERR ||
			 ent->fts_info == FTS_DNR)
			ret = -ent->fts_errno;
		/* Below a directory, a file that cannot be read is left out. */
		if (ret && ret != -ENOMEM && ent->fts_level > 0) {
			fprintf(stderr, "wordindex: %s: %s\n", ent->fts_path, strerror(-ret));
			ret = 0;
		}
	}
	fts_close(fts);
	return ret;
}

int wi_input_read(const char *path, struct wi_index *index, struct wi_input *input)
{
	struct reader reader = {
		.index = index,
		.input = input,
		.limit = path ? UINT64_MAX : PACKAGES_LIMIT,
	};
	int ret;

	*input = (struct wi_input){ .bytes = 0 };
	if (path)
		return read_tree(&reader, path, NULL);
	ret = read_tree(&reader, PACKAGES "/status", NULL);
	return ret ? ret : read_tree(&reader, PACKAGES "/info", is_package_list);
}
