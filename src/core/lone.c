/* SPDX-License-Identifier: MIT */
/*
 * Ops that meet nobody.
 *
 * Threads that work on separate ranges have nothing to say to each other, and hmm->lock and its
 * list would be all that they share. So an op within one chunk, of those that threads begin
 * (OP_FAULT, OP_OUT, OP_BACK), begins and ends in a shard, which goes by the chunk's address, as long
 * as no other op has anything to do with that shard:
 *
 *	             shard open, nobody there in its way
 *	op_begin() ──────────────────────────────────────► lone ──────────────► op_end()
 *	   │ else                                           │ an op comes that has to do with
 *	   ▼                                                ▼ the shard: it closes it
 *	hmm->ops, which is the protocol of active.c ◄──── pulled, active as it was
 *
 * An op that is put in hmm->ops, under hmm->lock, first closes the shards of its range: it raises
 * their count (or, of all of them, one for all: a fork would have to copy each page that is written),
 * and pulls what is lone there into the list. It opens them when it leaves the list;
 * so does one that was pulled. So whoever is in the list finds there all that overlaps with him,
 * and active.c need not know of shards; who is interrupted, waited for, or told, is in the list.
 *
 * L1. An op is lone (op->lone) if it is in its shard's list; that is so, and ends, under the
 *     shard's lock. It is active then.
 * L2. While a shard's count of closers is above 0 nothing becomes lone there. The one who closes raises
 *     the count and then looks at the number of lone ops; who becomes lone raises that number and then
 *     looks at the count: one of the two sees the other.
 * L3. Nobody waits for a lone op: who would is in the list, and has pulled it.
 * L4. Under hmm->lock nobody is added to the list, but an op may become lone where all have left. Who
 *     replaces his op by another one keeps the shards closed in between (event_run_next()).
 *
 * Locks: hmm->lock, then a shard's, a leaf.
 */
#include "core/core.h"

/* The chunks of its range; where there are more than shards, as many as there are of those. */
static void lone_span(const struct op *op, unsigned long *first, unsigned long *n)
{
	*first = op->start >> CHUNK_SHIFT;
	*n = op->start < op->end ? ((op->end - 1) >> CHUNK_SHIFT) - *first + 1 : 0;
	if (*n > OP_SHARDS)
		*n = OP_SHARDS;
}

static struct op_shard *lone_shard(struct hmm *hmm, unsigned long chunk)
{
	return &hmm->shard[chunk % OP_SHARDS];
}

void lone_init(struct hmm *hmm)
{
	unsigned int i;

	for (i = 0; i < OP_SHARDS; i++) {
		pthread_mutex_init(&hmm->shard[i].lock, NULL);
		TAILQ_INIT(&hmm->shard[i].ops);
	}
}

static void lone_close_one(struct op_shard *shard)
{
	__atomic_fetch_add(&shard->closers, 1, __ATOMIC_SEQ_CST);
}

/* hmm->lock held: what is lone there goes to the list, in front: it was there before. */
static void lone_pull_one(struct hmm *hmm, struct op_shard *shard)
{
	struct op *op;

	if (!__atomic_load_n(&shard->n, __ATOMIC_SEQ_CST) || MUTANT(LONE_OVERLOOKED))
		return;
	pthread_mutex_lock(&shard->lock);
	while ((op = TAILQ_FIRST(&shard->ops))) {
		TAILQ_REMOVE(&shard->ops, op, link);
		__atomic_fetch_sub(&shard->n, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&op->lone, false, __ATOMIC_RELAXED);
		lone_close_one(shard);
		op->closes = op->start >> CHUNK_SHIFT;
		op->nclosed = 1;
		TAILQ_INSERT_HEAD(&hmm->ops, op, link);
	}
	pthread_mutex_unlock(&shard->lock);
}

void lone_pull(struct hmm *hmm, unsigned long start, unsigned long end)
{
	const struct op range = { .start = start, .end = end };
	unsigned long first, n;

	for (lone_span(&range, &first, &n); n; n--)
		lone_pull_one(hmm, lone_shard(hmm, first++));
}

/* hmm->lock held: @op, which is not lone, is about to be in hmm->ops. */
void lone_close(struct hmm *hmm, struct op *op)
{
	unsigned long chunk, n;

	lone_span(op, &op->closes, &op->nclosed);
	if (op->nclosed == OP_SHARDS)
		__atomic_fetch_add(&hmm->closers, 1, __ATOMIC_SEQ_CST);
	for (chunk = op->closes, n = op->nclosed; n; n--, chunk++) {
		if (op->nclosed < OP_SHARDS)
			lone_close_one(lone_shard(hmm, chunk));
		lone_pull_one(hmm, lone_shard(hmm, chunk));
	}
}

/* hmm->lock held: it is not any more. */
void lone_open(struct hmm *hmm, struct op *op)
{
	if (op->nclosed == OP_SHARDS) {
		__atomic_fetch_sub(&hmm->closers, 1, __ATOMIC_SEQ_CST);
		op->nclosed = 0;
	}
	for (; op->nclosed; op->nclosed--, op->closes++)
		__atomic_fetch_sub(&lone_shard(hmm, op->closes)->closers, 1, __ATOMIC_SEQ_CST);
}

/* hmm->lock held: an op that is in hmm->ops gets another range. */
void lone_resize(struct hmm *hmm, struct op *op, unsigned long start, unsigned long end)
{
	struct op old = *op;

	op->start = start;
	op->end = end;
	lone_close(hmm, op);
	lone_open(hmm, &old);
}

static bool lone_kind(const struct op *op)
{
	return op->kind == OP_FAULT || op->kind == OP_OUT || op->kind == OP_BACK;
}

static bool lone_fits(struct hmm *hmm, const struct op_shard *shard, const struct op *op)
{
	const struct op *other;

	if ((__atomic_load_n(&shard->closers, __ATOMIC_SEQ_CST) ||
	     __atomic_load_n(&hmm->closers, __ATOMIC_SEQ_CST)) &&
	    !MUTANT(LONE_WITH_OTHERS))
		return false;
	TAILQ_FOREACH(other, &shard->ops, link)
		if (op_excludes(op, other))
			return false;
	return true;
}

bool lone_begin(struct hmm *hmm, struct op *op)
{
	struct op_shard *shard = lone_shard(hmm, op->start >> CHUNK_SHIFT);
	bool fits;

	if (!lone_kind(op) || op->start >= op->end || (op->start ^ (op->end - 1)) & CHUNK_MASK ||
	    (__atomic_load_n(&shard->closers, __ATOMIC_RELAXED) && !MUTANT(LONE_WITH_OTHERS)))
		return false;
	pthread_mutex_lock(&shard->lock);
	__atomic_fetch_add(&shard->n, 1, __ATOMIC_SEQ_CST);
	fits = lone_fits(hmm, shard, op);
	if (fits) {
		op->state = OP_ACTIVE;
		__atomic_store_n(&op->lone, true, __ATOMIC_RELAXED);
		TAILQ_INSERT_TAIL(&shard->ops, op, link);
	} else {
		__atomic_fetch_sub(&shard->n, 1, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&shard->lock);
	return fits;
}

bool lone_end(struct hmm *hmm, struct op *op)
{
	struct op_shard *shard = lone_shard(hmm, op->start >> CHUNK_SHIFT);
	bool lone;

	if (!__atomic_load_n(&op->lone, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&shard->lock);
	lone = op->lone; /* or it was pulled meanwhile */
	if (lone) {
		TAILQ_REMOVE(&shard->ops, op, link);
		__atomic_fetch_sub(&shard->n, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&op->lone, false, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&shard->lock);
	return lone;
}
