/* SPDX-License-Identifier: MIT */
/*
 * The page protocol (docs/page.md) for spin: one page, and everybody who wants it. run.sh checks it. Each inline here
 * stands for code there:
 *
 *	enqueue, begin, leave, MUST_WAIT	core/active.c: op_enqueue(), op_begin(), op_end() ...
 *	gate, put				mm/uffd.c: uffd_try(), and what MOVE, COPY and ZEROPAGE do in the kernel
 *	back_span				core/back.c: back_span(), back_staged(), back_device()
 *	answer, cpu_fault, run_parked, demote	core/cpu_fault.c: fault_answer(), cpu_fault() ...
 *	record, run_event			core/event.c: event_record(), event_run_next() with change_run()
 *	drop_special				core/special.c: special_drop(), special_release()
 *	monitor					mm/monitor.c: monitor_turn()
 *	worker					core/process.c: worker_turn()
 *	device_fault				core/fault.c: fault_try() and what follows
 *	out					core/out.c: out_pass(), out_run()
 *	ask					core/event.c: hmm_mirror_sync(), then work for the device
 *	touch, SEND, changer			the program, and the kernel's mm/ below it
 *
 * An atomic or d_step is what one lock or one ioctl makes one; between two of them anything can happen. All go on
 * for ever (mremap and LIVE: two calls), so what is found true is so for any number of calls, faults and accesses.
 *
 * Content is not a counter but what it means: CUR was written last, OLD was not, ZERO is what new memory has. A
 * write makes one copy CUR and all other CUR ones OLD. okc and okz say which of CUR and ZERO a read may give now
 * (G4): both while a madvise(MADV_DONTNEED) runs, and after it if somebody wrote meanwhile.
 *
 * One instance at a time:
 *	-DMIGRATE	two CPU threads and a device fault, pages go and come; no event
 *	-DDONTNEED	madvise(MADV_DONTNEED), for ever
 *	-DUNMAP		munmap(), for ever; any thread maps there again, at once
 *	-DREMAP		mremap() to another address, and back; one thread does, so order.c has nothing to do
 *	-DLIVE		with -DORDER -DUNMAP -DDONTNEED: every CPU fault ends (weak fairness)
 *	-DORDER		what waits lets those pass that came first; without it more can happen, and is checked
 *	-DALONE		the device looks by itself too, not only where asked to: UNMAP 6, REMAP 18 million states
 *	-DONCE		with -DDONTNEED: it empties the page once. It does not: see docs/page.md
 * -DBREAK=n breaks one rule; each must be found.
 */
#ifndef BREAK
#define BREAK 0
#endif
#define NO_SETTLE 1	/* after MADV_DONTNEED a page may leave at once */
#define NO_BACKOFF 2	/* an ioctl does not look whether its op was told to back off */
#define NO_LOOK 3	/* a CPU fault gets a zero page, whatever the special entry says */
#define NO_WAIT 4	/* an event does not wait for the active */
#define MAP_FIRST 5	/* on the way back the page is mapped before the device has lost it */
#define DROP_FIRST 6	/* ... and its device page is freed before it is mapped */
#define LATE_RECORD 7	/* the monitor lets go of the gate between read() and record */
#define NO_STAGE 8	/* an isolated page that cannot go anywhere is recycled */
#define DROP_FAULT 9	/* a CPU fault that cannot be answered now is not parked */
#define NO_WAKE 10	/* a CPU fault at what is not mapped any more is not woken */
#define NO_QUIET 11	/* a device fault takes a special entry for true while an event is unread */
#define NO_SYNC 12	/* hmm_mirror_sync() does not wait for recorded events */
#define LEAK 13		/* an event takes the special entry, not the device page */
#define OUT_EARLY 14	/* a migration begins although an event waits */
#define NO_MOVES 15	/* a hole is filled where a remap, not run yet, brings a page */
#define NO_FORGET 16	/* an UNMAP does not forget what was registered */
#define STAY_BACK 17	/* a parked fault stays told to back off */
#define NO_ORDER 18	/* a migration goes past a CPU fault that waits */
#ifdef REMAP
#define NADDR 2
#define QMAX 3
#else
#define NADDR 1
#define QMAX 2
#endif
#define LAST (NADDR - 1)
#define ZERO 0 /* content */
#define OLD 1
#define CUR 2
#define NONE 0 /* special entries, and with SYS the device's translation */
#define STAGED 1
#define SYS 1
#define DEV 2
#define WATCH 1 /* registered */
#define CATCH 2
#define FAULT 1 /* ops; OP_PREPARING, OP_FREEZE are left out, OP_INVAL is the queue, OP_SETTLE settle[] */
#define OUT 2
#define BACK 3
#define HOLE 4
#define WAIT 2
#define ACTIVE 3
#define D 0 /* whose op: the device's thread, the migrator, */
#define M 1
#define F 2 /* and a CPU fault of thread 0, or 1 */
#define EV_UNMAP 1
#define EV_REMOVE 2
#define EV_REMAP 3
#define OK 0 /* results: AGAIN is -EAGAIN and -ECANCELED */
#define AGAIN 1
#define EXIST 2
#define NOENT 3
#define NOTHING 4
#define AWAY 5

/* The kernel: mappings, the CPU page table, messages. */
bit mapped[NADDR], present[NADDR];
byte content[NADDR], reg[NADDR];
byte changing;		/* ctx->mmap_changing: from before the page table changes until the caller runs again */
byte uev, uaddr;	/* the event that waits to be read */
byte waits[2];		/* which address + 1 a thread waits at */
bit unread[2];
/* libhmm */
byte special[NADDR], watch[NADDR];
byte kind[4], st[4], oaddr[4];	/* ops */
bit backoff[4];
#ifdef ORDER
byte before[4];			/* who was in the list first */
#endif
bit parked[2];
byte nq, qtype[QMAX], qa[QMAX];	/* recorded events */
bit running;			/* the first of them is */
bit settle[NADDR];
byte tr[NADDR];		/* the device's translations */
bit used;		/* the device page; there is one content, so there is one */
byte dcontent;
bit sused;		/* the page of staging */
byte scontent;
byte buf[4];		/* copies on their way: the monitor's, the worker's, the migrator's, the device's thread's */
/* What only the checks look at. */
bit okc, okz;		/* a read may give CUR, ZERO */
bit dn, wd;		/* a MADV_DONTNEED runs; somebody wrote since it began */
bit sure, seen;		/* ONCE: there was no zero before it; it was seen to have happened */
bit isolated;		/* a page is out of the page table, without a special entry */
bit istale, pstale;	/* it, or what the device page has, is from before an unmap or remove */
bit strict;		/* nothing changed since the device was asked */
byte req;		/* where the device is asked to look: address + 1 */
bit asking;

#define WHEN(c, x) if :: c -> x :: else fi
#define EITHER(c, x, y) if :: c -> x :: else -> y fi
/* ---- content, and what a read may give ---- */
#define AGE(v) v = (v == CUR -> OLD : v)
inline age() {
	AGE(content[0]); AGE(content[LAST]); AGE(dcontent); AGE(scontent);
	AGE(buf[0]); AGE(buf[1]); AGE(buf[2]); AGE(buf[3])
}

inline access(v) { /* a read or a write, by whoever */
	if
	:: assert((v == CUR && okc) || (v == ZERO && okz)); /* G4 */
		seen = seen || (v == ZERO && sure && dn);
		okc = (v == CUR);
		okz = (v == ZERO || (dn && !seen))
	:: age(); v = CUR; okc = 1; okz = dn && !seen; wd = dn
	fi
}

/* ---- ops ---- */
#define LIGHT(k) (k == FAULT || k == HOLE)
#if defined(ORDER) && BREAK != NO_ORDER
#define EARLIER(s, k, o) (k != BACK && (before[s] >> o) & 1)
#else
#define EARLIER(s, k, o) false
#endif
#define CLASH(s, k, o) (o != s && st[o] >= WAIT && oaddr[o] == oaddr[s] && !(LIGHT(k) && LIGHT(kind[o])) && \
	(st[o] == ACTIVE || EARLIER(s, k, o)))
#define AT(i, a) (nq > i && (qa[i] == a || qtype[i] == EV_REMAP))
#define INVAL(a) (AT(0, a) || AT(1, a) || AT(QMAX - 1, a))
#define MOVE(i, a) (nq > i && qtype[i] == EV_REMAP && qa[i] != a && BREAK != NO_MOVES)
#define MOVES(a) (MOVE(0, a) || MOVE(1, a) || MOVE(QMAX - 1, a))
#define MUST_WAIT(s, k) (CLASH(s, k, 0) || CLASH(s, k, 1) || CLASH(s, k, 2) || CLASH(s, k, 3) || \
	(k == HOLE && ((running && AT(0, oaddr[s])) || MOVES(oaddr[s]))) || \
	(k != HOLE && INVAL(oaddr[s]) && !(k == OUT && BREAK == OUT_EARLY && !running)) || \
	(k == OUT && settle[oaddr[s]]))
#define OUTSTANDING (changing || nq)
#define ACTIVE_AT(s, a) (st[s] == ACTIVE && oaddr[s] == a)
#define ANY_ACTIVE(a) (ACTIVE_AT(0, a) || ACTIVE_AT(1, a) || ACTIVE_AT(2, a) || ACTIVE_AT(3, a))
inline enqueue(s, k, a) {
	kind[s] = k; oaddr[s] = a; backoff[s] = 0;
#ifdef ORDER
	before[s] = (st[0] && s != 0) | ((st[1] && s != 1) << 1) | ((st[2] && s != 2) << 2) | ((st[3] && s != 3) << 3);
#endif
	st[s] = (MUST_WAIT(s, k) -> WAIT : ACTIVE)
}

inline begin(s, k, a) {
	d_step { enqueue(s, k, a) };
	do
	:: atomic { st[s] == ACTIVE -> break }
	:: atomic { st[s] == WAIT && !MUST_WAIT(s, k) -> st[s] = ACTIVE }
	:: atomic { st[s] == WAIT && k == OUT && settle[a] && !present[a] -> settle[a] = 0 } /* event_settle_all() */
	od
}

inline leave(s) {
	d_step {
		st[s] = 0;
		/* G1 at rest; and no page is lost. */
		assert(!(special[oaddr[s]] && present[oaddr[s]]) || OUTSTANDING || ANY_ACTIVE(oaddr[s]));
		assert(!used || isolated || special[0] == DEV || special[LAST] == DEV);
		assert(!sused || isolated || special[0] == STAGED || special[LAST] == STAGED);
#ifdef ORDER
		before[s] = 0;
		before[0] = before[0] & ~(1 << s); before[1] = before[1] & ~(1 << s);
		before[2] = before[2] & ~(1 << s); before[3] = before[3] & ~(1 << s);
#endif
		kind[s] = 0; oaddr[s] = 0; backoff[s] = 0
	}
}

/* ---- ioctls: d_step { GATE(...) -> gate(...); what the kernel does }, with the result in r ---- */
#define GATE(s, wait) (backoff[s] || !changing || !(wait)) /* else: yield, try again */
inline gate(s) {
	r = (((backoff[s] && BREAK != NO_BACKOFF) || changing) -> AGAIN : OK)
}

inline wake(a) {
	WHEN(waits[0] == a + 1, waits[0] = 0; unread[0] = 0);
	WHEN(waits[1] == a + 1, waits[1] = 0; unread[1] = 0)
}

inline put(a, v) {
	WHEN(r == OK && (!mapped[a] || !reg[a]), r = NOENT);
	WHEN(r == OK && present[a], r = EXIST);
	WHEN(r == OK, present[a] = 1; content[a] = v; assert(tr[a] != DEV); wake(a)) /* G1 */
}

/* ---- special entries ---- */
inline drop_special(a) {
	if
	:: special[a] == DEV ->
		assert(used && tr[0] != DEV && tr[LAST] != DEV); /* nobody uses what is freed */
		used = 0; dcontent = 0; pstale = 0
	:: special[a] == STAGED -> assert(sused); sused = 0; scontent = 0
	:: else
	fi;
	special[a] = NONE
}

/* ---- the way back ---- */
inline back_span(s, wait, me) {
	sp = special[oaddr[s]];
	if
	:: sp == NONE -> r = NOTHING
	:: sp == STAGED ->
		d_step { GATE(s, wait) -> gate(s); put(oaddr[s], scontent) };
		WHEN(r == OK || r == EXIST, d_step { drop_special(oaddr[s]); r = OK })
	:: sp == DEV ->
		WHEN(BREAK != MAP_FIRST, tr[oaddr[s]] = NONE);
		buf[me] = dcontent;
		WHEN(BREAK == DROP_FIRST, d_step { drop_special(oaddr[s]) });
		d_step { GATE(s, wait) -> gate(s); put(oaddr[s], buf[me]) };
		WHEN(BREAK == MAP_FIRST, tr[oaddr[s]] = NONE);
		d_step { buf[me] = 0; WHEN(r == OK || r == EXIST, drop_special(oaddr[s]); r = OK) }
	fi;
	sp = 0
}

/* ---- CPU faults ---- */
inline answer(s, wait, me) {
	EITHER(BREAK == NO_LOOK, r = NOTHING, back_span(s, wait, me));
	WHEN(r == NOTHING, d_step { GATE(s, wait) -> gate(s); put(oaddr[s], ZERO) });
	WHEN(r == NOENT || r == EXIST, d_step { WHEN(BREAK != NO_WAKE || r == EXIST, wake(oaddr[s])); r = OK })
}

inline demote(s, t) { d_step { st[s] = WAIT; backoff[s] = backoff[s] && BREAK == STAY_BACK; parked[t] = 1 } }

#define WANTS(s) (special[oaddr[s]] -> BACK : HOLE)
#define CAN(s) ((special[oaddr[s]] && !MUST_WAIT(s, BACK)) || (!special[oaddr[s]] && !MUST_WAIT(s, HOLE)))
/* The monitor's: now, or parked. */
inline cpu_fault(s, t) {
	d_step {
		kind[s] = WANTS(s);
		enqueue(s, kind[s], oaddr[s]);
		parked[t] = (st[s] == WAIT);
		here = !parked[t]
	};
	if
	:: here ->
		here = 0;
		answer(s, 0, 0);
		EITHER(r == OK || BREAK == DROP_FAULT, leave(s), demote(s, t))
	:: else
	fi;
	r = 0
}

/* The worker's. */
inline run_parked(s, t) {
	atomic { parked[t] && CAN(s) -> kind[s] = WANTS(s); st[s] = ACTIVE; parked[t] = 0 };
	answer(s, 1, 1);
	EITHER(r == OK, leave(s), demote(s, t));
	r = 0
}

/* ---- events ---- */
#define INTERRUPT(s, a) WHEN(st[s] == ACTIVE && (e == EV_REMAP || oaddr[s] == a), backoff[s] = 1)
inline record(a) {
	d_step {
		if
		:: nq > running && e != EV_REMAP && qtype[nq - 1] == e && qa[nq - 1] == a /* event_joins() */
		:: else ->
			qtype[nq] = e; qa[nq] = a; nq++
		fi;
		INTERRUPT(0, a); INTERRUPT(1, a); INTERRUPT(2, a); INTERRUPT(3, a);
		WHEN(e == EV_REMOVE, pstale = used; istale = isolated; strict = 0);
		e = 0; ea = 0
	}
}

#define BUSY(s) (st[s] == ACTIVE && AT(0, oaddr[s]) && BREAK != NO_WAIT)
inline run_event() {
	atomic { nq && !running && !(BUSY(0) || BUSY(1) || BUSY(2) || BUSY(3)) -> running = 1 };
	d_step { tr[qa[0]] = NONE; WHEN(qtype[0] == EV_REMAP, tr[LAST - qa[0]] = NONE) }; /* mirrors_update() */
	d_step {
		if
		:: qtype[0] == EV_REMAP ->
			assert(special[LAST - qa[0]] == NONE);
			special[LAST - qa[0]] = special[qa[0]]; special[qa[0]] = NONE;
			watch[LAST - qa[0]] = watch[qa[0]]
		:: else ->
			EITHER(BREAK == LEAK, special[qa[0]] = NONE, drop_special(qa[0]));
			WHEN(qtype[0] == EV_UNMAP && BREAK != NO_FORGET, watch[qa[0]] = 0)
		fi
	};
	d_step {
		WHEN(qtype[0] == EV_REMOVE && BREAK != NO_SETTLE && present[qa[0]], settle[qa[0]] = 1);
		running = 0; nq--;
		qtype[0] = qtype[1]; qa[0] = qa[1];
#ifdef REMAP
		qtype[1] = qtype[2]; qa[1] = qa[2];
#endif
		qtype[QMAX - 1] = 0; qa[QMAX - 1] = 0
	}
}

/* ---- the threads of libhmm ---- */
#define NEWS(t) (unread[t] && st[F + t] == 0) /* one fault a thread is parked; its next waits here instead */

proctype monitor() {
	byte r, sp, e, ea;
	bit fault0, fault1, here;
end:	do
	:: atomic {
		(uev || NEWS(0) || NEWS(1)) ->
		d_step {
			WHEN(NEWS(0), fault0 = 1; unread[0] = 0; oaddr[F] = waits[0] - 1);
			WHEN(NEWS(1), fault1 = 1; unread[1] = 0; oaddr[F + 1] = waits[1] - 1);
			e = uev; ea = uaddr; uev = 0; uaddr = 0
		};
		WHEN(e && BREAK != LATE_RECORD, record(ea))
	   };
		WHEN(e, record(ea));
		WHEN(fault0, fault0 = 0; cpu_fault(2, 0));
		WHEN(fault1, fault1 = 0; cpu_fault(3, 1))
	od
}

proctype worker() { /* and the monitor, where it runs events */
	byte r, sp;
end:	do
	:: run_event()
	:: run_parked(2, 0)
	:: run_parked(3, 1)
	od
}

/* ---- the device ---- */
inline device_fault(a) {
	begin(D, FAULT, a);
	atomic { /* fault_look() */
		if
		:: backoff[D] -> r = AGAIN
		:: !backoff[D] && !mapped[a] -> r = NOENT
		:: else -> r = OK; WHEN(!watch[a], watch[a] = WATCH; reg[a] = (reg[a] -> reg[a] : WATCH))
		fi
	};
	if
	:: r == OK ->
		sp = special[a]; /* fault_scan() */
		if
		:: sp == STAGED -> r = AWAY
		:: sp == DEV && BREAK != NO_QUIET -> /* fault_check() */
			d_step { backoff[D] || !changing -> r = (backoff[D] -> AGAIN : OK) }
		:: (sp == DEV && BREAK == NO_QUIET) || (sp == NONE && present[a])
		:: sp == NONE && !present[a] -> /* fault_fill() */
			d_step { GATE(D, 1) -> gate(D); put(a, ZERO); r = (r == EXIST -> OK : r) }
		fi;
		WHEN(r == OK && sp == NONE, d_step { r = (backoff[D] -> AGAIN : OK) });
		WHEN(r == OK, d_step { /* fault_enter() */
			tr[a] = (sp == DEV -> DEV : SYS);
			assert(!(tr[a] == DEV && present[a]) || OUTSTANDING) /* G1 */
		})
	:: else
	fi;
	leave(D);
	WHEN(r == AWAY, begin(D, BACK, a); back_span(D, 1, 3); leave(D); r = OK);
	sp = 0
}

/*
 * By a translation from before an unmap or remove the device may look only while that is not dealt with, and not when
 * it was asked to after it (G3). System memory is reached by the CPU page table, and does not wait.
 */
inline device_access(a) {
	do
	:: atomic {
		tr[a] == DEV ->
		assert(used);
		WHEN(pstale || !mapped[a], assert(OUTSTANDING && !(asked && strict))); /* G3 */
		WHEN(!pstale, access(dcontent));
		break
	   }
	:: atomic {
		tr[a] == SYS ->
		WHEN(mapped[a] && !present[a] && reg[a] != CATCH, present[a] = 1; content[a] = ZERO);
		EITHER(mapped[a] && present[a], access(content[a]); break, tr[a] = NONE)
	   }
	:: tr[a] == NONE ->
		device_fault(a);
		EITHER(r == NOENT, r = 0; break, r = 0)
	od
}

proctype device() {
	byte r, sp, a;
	bit asked;
end:	do
	:: atomic { req -> a = req - 1; asked = 1 };
		device_access(a);
		atomic { asked = 0; req = 0; strict = 0; a = 0 }
#if defined(MIGRATE) || defined(ALONE)
	:: device_access(0)
#endif
	od
}

/* ---- migrations ---- */
inline back(a) { begin(M, BACK, a); back_span(M, 1, 2); leave(M); r = 0 }

inline out(a) {
	begin(M, OUT, a);
	atomic { /* out_look(), out_skip_away(), step 1 */
		if
		:: !mapped[a] || special[a] == DEV -> r = NOENT
		:: mapped[a] && special[a] == STAGED -> r = AWAY
		:: else -> r = OK; tr[a] = NONE; WHEN(watch[a] != CATCH, watch[a] = CATCH; reg[a] = CATCH)
		fi
	};
	if
	:: r == OK ->
		d_step { /* step 2; of memory not registered too, and then nobody waits */
			GATE(M, 1) -> gate(M);
			WHEN(r == OK && !mapped[a], r = NOENT);
			WHEN(r == OK, isolated = 1; page = present[a]; buf[2] = (page -> content[a] : ZERO);
				      present[a] = 0; content[a] = 0)
		};
		if
		:: r == OK ->
			if /* step 4: the driver may take it or not */
			:: backoff[M] -> WHEN(BREAK == NO_STAGE, page = 0)
			:: !backoff[M] ->
				d_step { assert(!used); used = 1; dcontent = buf[2]; pstale = istale; taken = 1 }
			:: !backoff[M]
			fi;
			if
			:: taken -> d_step { assert(!special[a]); special[a] = DEV } /* step 5 */
			:: !taken && page -> /* step 6 */
				d_step { GATE(M, 1) -> gate(M); put(a, buf[2]) };
				WHEN(r != OK && r != EXIST,
				     d_step { assert(!sused && !special[a]);
					      sused = 1; scontent = buf[2]; special[a] = STAGED })
			:: else /* a hole again */
			fi;
			d_step { isolated = 0; buf[2] = 0; istale = 0 }
		:: else
		fi
	:: else
	fi;
	leave(M);
	d_step { page = 0; taken = 0 };
	WHEN(r == AWAY, back(a));
	r = 0
}

proctype migrator() {
	byte r, sp;
	bit page, taken;
end:	do
	:: mapped[0] -> out(0)
#ifdef REMAP
	:: mapped[LAST] -> out(1)
#endif
#ifdef MIGRATE
	:: back(0)
#endif
	od
}

/* ---- the program, and the kernel below ---- */
inline touch(t, a) {
	do
	:: atomic { !mapped[a] -> break } /* SIGSEGV */
	:: atomic {
		mapped[a] && (present[a] || reg[a] != CATCH) ->
		WHEN(!present[a], present[a] = 1; content[a] = ZERO);
		access(content[a]); break
	   }
	:: atomic { mapped[a] && !present[a] && reg[a] == CATCH -> waits[t] = a + 1; unread[t] = 1 };
		waits[t] == 0
	od
}

inline ask(a) {
	atomic { !asking -> asking = 1; strict = 1 };
	WHEN(special[0] || special[LAST], changing == 0); /* sync_needs_quiet(), uffd_quiet() */
	WHEN(BREAK != NO_SYNC, nq == 0);
	req = a + 1;
	atomic { req == 0 -> asking = 0 }
}

#define SEND(type, a) atomic { uev = type; uaddr = a }; uev == 0; changing--
#define GONE(a) present[a] = 0; content[a] = 0; reg[a] = 0; mapped[a] = 0
inline remap(a, b) {
	atomic {
		mapped[a] && nq < 2 ->
		told = (reg[a] != 0); changing = 2 * told; strict = 0;
		mapped[b] = 1; present[b] = present[a]; content[b] = content[a]; reg[b] = reg[a];
		GONE(a)
	};
	WHEN(told, SEND(EV_REMAP, a); SEND(EV_UNMAP, a));
	told = 0
}

#if defined(REMAP) || defined(LIVE)
#define FEW calls < 2 -> calls++;
#else
#define FEW
#endif

proctype changer() {
	bit told;
	byte calls;

end:	do
#ifdef MIGRATE
	:: touch(0, 0)
#elif !defined(LIVE)
	:: mapped[0] -> ask(0)
#endif
#ifdef UNMAP
	:: FEW atomic { /* memory that is not registered sends no event: nothing may be away there */
		mapped[0] && nq < 2 ->
		assert(reg[0] == CATCH || !special[0] || nq);
		told = (reg[0] != 0); changing = told;
		age(); okc = 0; okz = 0; pstale = used; istale = isolated; strict = 0;
		GONE(0)
	   };
	   WHEN(told, SEND(EV_UNMAP, 0));
	   atomic { told = 0; WHEN(!mapped[0], mapped[0] = 1; okz = 1) }
#endif
#ifdef DONTNEED
	:: FEW atomic {
		mapped[0] && nq < 2 && reg[0] ->
		changing = 1; dn = 1; strict = 0;
#ifdef ONCE
		sure = !okz;
#endif
		okz = 1; uev = EV_REMOVE; uaddr = 0
	   };
	   uev == 0;
	   changing--;
	   atomic { present[0] = 0; content[0] = 0; okc = okc && wd; dn = 0; wd = 0; sure = 0; seen = 0 }
#endif
#ifdef REMAP
	:: mapped[LAST] -> ask(1)
	:: FEW remap(0, 1)
	:: FEW remap(1, 0)
#endif
	od
}

proctype other() {
end:	do
	:: mapped[0] -> touch(1, 0)
#ifdef REMAP
	:: mapped[LAST] -> touch(1, 1)
#endif
#ifdef UNMAP
	:: atomic { !mapped[0] -> mapped[0] = 1; okz = 1 }
#ifndef LIVE
	:: ask(0)
#endif
#endif
	od
}

init {
	atomic {
		mapped[0] = 1; present[0] = 1; content[0] = CUR; okc = 1;
		run monitor(); run worker(); run migrator(); run changer(); run other();
#ifndef LIVE
		run device()
#endif
	}
}

#ifdef LIVE
ltl ends { [] (waits[1] -> <> (waits[1] == 0)) } /* G9 */
#endif
